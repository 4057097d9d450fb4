//! Abilities: listed in pages, described by name.

use proto::promptgen::v1::{GetAbilityRequest, ListAbilitiesRequest};
use tonic::Code;

use crate::stage::{field_of, options, serve};

#[tokio::test]
async fn abilities_are_listed_in_pages_and_described() {
    let (_handle, mut client) = serve(options()).await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_abilities(ListAbilitiesRequest {
                page_size: 5,
                page_token,
            })
            .await
            .unwrap()
            .into_inner();
        names.extend(page.abilities.into_iter().map(|ability| ability.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(names.len() == 20 && names.is_sorted(), "{names:?}");
    let bad = ListAbilitiesRequest {
        page_size: 0,
        page_token: "after:nothing".into(),
    };
    assert_eq!(
        field_of(&client.list_abilities(bad).await.unwrap_err()),
        "page_token"
    );
    let large = ListAbilitiesRequest {
        page_size: 101,
        page_token: String::new(),
    };
    assert_eq!(
        field_of(&client.list_abilities(large).await.unwrap_err()),
        "page_size"
    );

    let hair = client
        .get_ability(GetAbilityRequest {
            name: "hair".into(),
        })
        .await
        .unwrap()
        .into_inner()
        .ability
        .unwrap();
    assert!(
        hair.prompt_examples.len() >= 5
            && !hair.evaluation_questions.is_empty()
            && !hair.cautions.is_empty()
    );
    let status = client
        .get_ability(GetAbilityRequest {
            name: "hairs".into(),
        })
        .await
        .unwrap_err();
    assert!(
        status.code() == Code::NotFound && status.message().contains("hair"),
        "{status}"
    );
}
