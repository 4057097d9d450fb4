//! gRPC adapter of text embedding.

use crate::{embedding::Embedder, error::Error, memo::Memo};
use proto::promptgen::v1::{
    EmbedTextsRequest, EmbedTextsResponse, text_embedding_service_server::TextEmbeddingService,
};
use runtime::{RequestContext, respond};
use std::sync::Arc;
use tonic::{Request, Response, Status};

const MAX_TEXTS: usize = 256;
const MAX_TEXT_CHARACTERS: usize = 8_192;

/// Embeds texts, where there is a model.
pub(crate) struct Embedding {
    embedder: Option<Arc<Embedder>>,
    memo: Memo,
}

impl Embedding {
    pub(crate) fn new(embedder: Option<Embedder>, memo: Memo) -> Self {
        Self {
            embedder: embedder.map(Arc::new),
            memo,
        }
    }

    async fn embed(
        &self,
        request: EmbedTextsRequest,
        context: &RequestContext,
    ) -> Result<EmbedTextsResponse, Error> {
        let embedder = self.embedder.as_ref().ok_or(Error::NoEmbeddingModel)?;
        let EmbedTextsRequest { texts, model } = request;
        if !model.is_empty() && model != embedder.name() {
            return Err(Error::UnknownModel {
                asked: model,
                served: embedder.name().to_owned(),
            });
        }
        check(&texts)?;
        let mut embeddings = Vec::with_capacity(texts.len());
        for text in &texts {
            // The caller gets no answer then; what is done stays in the cache.
            if context.is_cancelled() {
                break;
            }
            embeddings.push(self.memo.embedding(embedder, text).await?);
        }
        Ok(EmbedTextsResponse {
            embeddings,
            model: embedder.name().to_owned(),
            model_sha256: embedder.sha256().to_owned(),
        })
    }
}

#[tonic::async_trait]
impl TextEmbeddingService for Embedding {
    async fn embed_texts(
        &self,
        request: Request<EmbedTextsRequest>,
    ) -> Result<Response<EmbedTextsResponse>, Status> {
        let context = RequestContext::of(&request);
        let answer = self.embed(request.into_inner(), &context).await;
        answer.map(Response::new).map_err(|error| respond(&error))
    }
}

fn check(texts: &[String]) -> Result<(), Error> {
    if texts.is_empty() || texts.len() > MAX_TEXTS {
        return Err(Error::field(
            "texts",
            format!("give 1 to {MAX_TEXTS} texts, not {}", texts.len()),
        ));
    }
    match texts
        .iter()
        .position(|text| text.chars().count() > MAX_TEXT_CHARACTERS)
    {
        Some(index) => Err(Error::field(
            format!("texts[{index}]"),
            format!("at most {MAX_TEXT_CHARACTERS} characters"),
        )),
        None => Ok(()),
    }
}
