"use strict";
// The page is complete without this: it adds the cursor of the loss curves and marks the section in view.

(function lossCursor() {
  const plot = document.getElementById("loss-plot");
  const source = document.getElementById("loss-data");
  if (!plot || !source) return;
  const curves = JSON.parse(source.textContent);
  const last = Number(plot.dataset.last);
  const cursor = plot.querySelector(".cursor"), tip = plot.querySelector(".tip");
  let step = last;

  function nearest(steps, wanted) {
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < wanted) low = middle + 1; else high = middle;
    }
    return low > 0 && wanted - steps[low - 1] < steps[low] - wanted ? low - 1 : low;
  }

  function line(curve) {
    const at = nearest(curve.steps, step);
    const row = document.createElement("div");
    row.className = curve.class;
    const swatch = document.createElement("i");
    swatch.className = "swatch";
    const value = document.createElement("span");
    value.textContent = curve.smooth[at].toFixed(3);
    const raw = document.createElement("em");
    raw.textContent = curve.raw[at].toFixed(3);
    row.append(swatch, curve.name, value, raw);
    return row;
  }

  function show(wanted) {
    step = Math.round(Math.min(Math.max(wanted, 0), last));
    const share = step / last;
    const head = document.createElement("b");
    head.textContent = "step " + step.toLocaleString("en");
    tip.replaceChildren(head, ...curves.filter(c => step <= c.steps[c.steps.length - 1] + last / 50).map(line));
    cursor.hidden = tip.hidden = false;
    cursor.style.left = share * 100 + "%";
    const room = plot.clientWidth - tip.offsetWidth;
    const x = share * plot.clientWidth;
    tip.style.left = Math.max(0, Math.min(x > room - 14 ? x - tip.offsetWidth - 14 : x + 14, room)) + "px";
  }

  function hide() { cursor.hidden = tip.hidden = true; }

  plot.addEventListener("pointermove", event => {
    const box = plot.getBoundingClientRect();
    show((event.clientX - box.left) / box.width * last);
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("focus", () => show(step));
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", event => {
    const by = { ArrowLeft: -last / 60, ArrowRight: last / 60, Home: -last, End: last }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    show(step + (by < 0 ? Math.floor(by) : Math.ceil(by)));
  });
})();

(function sectionInView() {
  const links = new Map([...document.querySelectorAll("nav a")].map(a => [a.hash.slice(1), a]));
  if (!links.size || !("IntersectionObserver" in window)) return;
  const observer = new IntersectionObserver(entries => {
    for (const entry of entries) {
      const link = links.get(entry.target.id);
      if (!link || !entry.isIntersecting) continue;
      links.forEach(other => other.removeAttribute("aria-current"));
      link.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  links.forEach((_, id) => observer.observe(document.getElementById(id)));
})();
