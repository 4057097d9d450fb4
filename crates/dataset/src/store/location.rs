//! A dataset's place by name: what a command line or a recipe says.

use super::{Error, Root};
use object_store::{ObjectStore, aws::AmazonS3Builder, prefix::PrefixStore};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

/// Where a dataset lies, or is to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket and the prefix of all names in it. Keys, region and endpoint come from the
    /// environment, by the names that AWS's own tools read: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`; `AWS_ALLOW_HTTP=true` lets a
    /// plaintext endpoint pass. Without keys, a pod's or a container's role is taken where the
    /// platform has said so in its variables, and a machine's where `AWS_EC2_METADATA_DISABLED` is
    /// `false`: asking for one elsewhere is a wait for an address that nobody has.
    S3 {
        /// Bucket.
        bucket: String,
        /// Prefix without slashes at its ends; may be empty.
        prefix: String,
    },
}

impl Location {
    /// The place, made where it is missing. A bucket must exist.
    ///
    /// # Errors
    /// A folder that cannot be made, settings of the environment that make no sense.
    pub fn create(&self) -> Result<Root, Error> {
        match self {
            Self::Folder(folder) => Root::create_folder(folder),
            Self::S3 { bucket, prefix } => s3(bucket, prefix, &self.to_string()),
        }
    }

    /// The place, or none where there is no such folder. Whether a bucket is there shows when it is
    /// read.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn find(&self) -> Result<Option<Root>, Error> {
        match self {
            Self::Folder(folder) if !folder.exists() => Ok(None),
            Self::Folder(folder) => Root::folder(folder).map(Some),
            Self::S3 { .. } => self.create().map(Some),
        }
    }

    /// The place, which must be there.
    ///
    /// # Errors
    /// Also a folder that is missing.
    pub fn open(&self) -> Result<Root, Error> {
        match self {
            Self::Folder(folder) => Root::folder(folder),
            Self::S3 { .. } => self.create(),
        }
    }

    /// The folder, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::S3 { .. } => None,
        }
    }
}

impl From<&Path> for Location {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.to_owned())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(formatter),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(formatter, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(formatter, "s3://{bucket}/{prefix}"),
        }
    }
}

/// A text that names no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MalformedLocation {
    /// `s3://` without a bucket.
    #[error("`{0}` names no bucket: s3://BUCKET/PREFIX is expected")]
    NoBucket(String),
    /// A scheme that is not offered.
    #[error("`{0}` is neither a folder nor s3://BUCKET/PREFIX")]
    Scheme(String),
}

impl FromStr for Location {
    type Err = MalformedLocation;

    fn from_str(text: &str) -> Result<Self, MalformedLocation> {
        match text.split_once("://") {
            None => Ok(Self::Folder(text.into())),
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(MalformedLocation::NoBucket(text.to_owned()));
                }
                Ok(Self::S3 {
                    bucket: bucket.to_owned(),
                    prefix: prefix.trim_matches('/').to_owned(),
                })
            }
            Some(_) => Err(MalformedLocation::Scheme(text.to_owned())),
        }
    }
}

fn s3(bucket: &str, prefix: &str, name: &str) -> Result<Root, Error> {
    let failed = |source| Error::Storage {
        verb: "open",
        object: name.to_owned(),
        source,
    };
    if !has_credentials(&|name| std::env::var(name).ok()) {
        return Err(Error::NoCredentials {
            root: name.to_owned(),
        });
    }
    // Conditional puts are its default: `If-None-Match: *`, which a commit rests on.
    let bucket = AmazonS3Builder::from_env().with_bucket_name(bucket);
    let bucket = bucket.build().map_err(failed)?;
    let objects: Arc<dyn ObjectStore> = match prefix {
        "" => Arc::new(bucket),
        prefix => Arc::new(PrefixStore::new(bucket, prefix)),
    };
    Ok(Root::new(objects, name))
}

/// Whether the environment says who asks: keys, a role of a pod or a container, the role of the
/// machine where that is asked for, or that nobody need sign.
fn has_credentials(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let value = |name| variable(name).filter(|value| !value.is_empty());
    let is =
        |name, wanted: &str| value(name).is_some_and(|value| value.eq_ignore_ascii_case(wanted));
    let has_keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        .into_iter()
        .all(|name| value(name).is_some());
    let has_role = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
    ]
    .into_iter()
    .any(|name| value(name).is_some());
    has_keys
        || has_role
        || is("AWS_EC2_METADATA_DISABLED", "false")
        || is("AWS_SKIP_SIGNATURE", "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_roles_are_credentials_and_half_a_key_is_none() {
        let has = |given: &[(&str, &str)]| {
            has_credentials(&|name| {
                let found = given.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let id = ("AWS_ACCESS_KEY_ID", "a");
        assert!(has(&[id, ("AWS_SECRET_ACCESS_KEY", "b")]));
        assert!(has(&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")]));
        assert!(has(&[("AWS_EC2_METADATA_DISABLED", "False")]));
        assert!(!has(&[id]) && !has(&[id, ("AWS_SECRET_ACCESS_KEY", "")]));
        assert!(!has(&[("AWS_EC2_METADATA_DISABLED", "true")]) && !has(&[]));
    }

    #[test]
    fn a_bucket_and_its_prefix_are_told_from_a_folder() {
        let parsed = |text: &str| text.parse::<Location>();
        let bucket = |bucket: &str, prefix: &str| Location::S3 {
            bucket: bucket.into(),
            prefix: prefix.into(),
        };
        assert_eq!(
            parsed("runs/demo"),
            Ok(Location::Folder("runs/demo".into()))
        );
        assert_eq!(parsed("s3://b"), Ok(bucket("b", "")));
        assert_eq!(parsed("s3://b/a/c/"), Ok(bucket("b", "a/c")));
        assert_eq!(parsed("s3://b/a/c/").unwrap().to_string(), "s3://b/a/c");
        for text in ["s3:///a", "gs://b/a"] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(
                error.contains(text) && error.contains("s3://BUCKET"),
                "{error}"
            );
        }
    }
}
