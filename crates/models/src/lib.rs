//! Mathematics on candle.

pub mod ops;
pub mod threads;
pub mod weights;

pub mod checkpoint;
pub mod clip_image;
pub mod clip_vision;
pub mod conversation;
pub mod generate;
pub mod language_model;
pub mod llama;
pub mod llava;
pub mod llava_error;
pub mod llava_tokenizer;
pub mod loss;
pub mod optim;
pub mod parameter;
pub mod projector;

pub mod bert;
pub mod blocks;
pub mod clip;
pub mod clip_text;
pub mod clip_tokenizer;
pub mod config;
pub(crate) mod encoder;
pub(crate) mod image_tower;
pub mod lora;
pub mod measuring;
pub mod mmdit;
pub mod prompt_weighting;
pub mod safety_checker;
pub mod scheduler;
pub mod sentence;
pub mod siglip;
pub(crate) mod siglip_tokenizer;
pub mod stable_diffusion;
pub mod t5;
pub mod t5_tokenizer;
pub mod torch_rng;
pub mod unet;
pub mod vae;
pub mod vit_classifier;
