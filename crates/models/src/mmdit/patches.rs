//! Latents as tokens: squares of `side` × `side`, row by row.

/// `(channels, height, width)` as one row for each square, channel by channel and within a channel row
/// by row: `(height / side · width / side, channels · side²)`.
pub(super) fn cut(latents: &[f32], shape: [usize; 3], side: usize) -> Vec<f32> {
    let [channels, height, width] = shape;
    let mut rows = Vec::with_capacity(latents.len());
    for top in (0..height / side).map(|y| y * side) {
        for left in (0..width / side).map(|x| x * side) {
            for channel in 0..channels {
                for y in top..top + side {
                    let start = (channel * height + y) * width + left;
                    rows.extend_from_slice(&latents[start..start + side]);
                }
            }
        }
    }
    rows
}

/// How the numbers of one square are laid out in a row.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// As [`cut`] gives them.
    ChannelsFirst,
    /// Pixel by pixel.
    ChannelsLast,
}

/// The way back from rows, laid out by `order`.
pub(super) fn join(rows: &[f32], shape: [usize; 3], side: usize, order: Order) -> Vec<f32> {
    let [channels, height, width] = shape;
    let row_len = channels * side * side;
    let mut latents = Vec::with_capacity(rows.len());
    for channel in 0..channels {
        for y in 0..height {
            for x in 0..width {
                let square = y / side * (width / side) + x / side;
                let pixel = y % side * side + x % side;
                let place = match order {
                    Order::ChannelsFirst => channel * side * side + pixel,
                    Order::ChannelsLast => pixel * channels + channel,
                };
                latents.push(rows[square * row_len + place]);
            }
        }
    }
    latents
}
