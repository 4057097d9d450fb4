//! What every service makes of a caller who leaves a local model. The tests of services take this file
//! in by its path: it is nobody's interface.

use std::{path::Path, time::Duration};

use tokio::time::timeout;
use tonic::{Code, Status};

/// Asks for much by `much`, is refused by `little` meanwhile, leaves, and finds the model free and the
/// work for nobody ended. `little` gives the failure of a question that fits no context, which is known
/// as soon as the model is free. Gives the refusal.
pub(crate) async fn stops_the_work<M, L>(
    model: &Path,
    mut much: impl FnMut() -> M + Send + 'static,
    mut little: impl FnMut() -> L,
) -> Status
where
    M: Future<Output = Result<(), Status>> + Send,
    L: Future<Output = Result<String, Status>>,
{
    let asking = tokio::spawn(async move {
        while let Err(status) = much().await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        }
    });
    let busy = loop {
        match little().await {
            Ok(failure) => assert!(failure.contains("CONTEXT_FULL"), "{failure}"),
            Err(status) => break status,
        }
        assert!(!asking.is_finished(), "{asking:?}");
    };
    assert_eq!(busy.code(), Code::ResourceExhausted, "{busy}");

    asking.abort();
    let free = async {
        loop {
            if let Ok(failure) = little().await {
                return failure;
            }
        }
    };
    let failure = timeout(Duration::from_secs(60), free).await.unwrap();
    assert!(failure.contains("CONTEXT_FULL"), "{failure}");
    let name = model.file_name().unwrap().to_str().unwrap();
    let page = runtime::prometheus::render();
    let mut lines = page.lines().filter(|line| line.contains(name));
    let answered = lines.find(|line| line.contains("outcome=\"answered\""));
    assert_eq!(answered, None, "the answer was written to its end");
    busy
}
