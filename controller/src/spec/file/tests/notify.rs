//! How a user is told, as the run file says it.

use super::*;
use crate::spec::WebhookFrom;

#[test]
fn the_url_of_a_webhook_is_read_where_it_is_and_is_no_part_of_the_run() {
    let dir = dir();
    let read = |notify: &str| {
        let text = format!("{SMALL}notify: {notify}\n");
        let path = dir.path().join("run.yaml");
        std::fs::write(&path, &text).unwrap();
        parse(&text, "some/where/run.yaml", dir.path()).map(|spec| (spec.notify.unwrap(), path))
    };
    let (notify, path) = read("{webhook: https://hooks.example.com/hush, command: cat}").unwrap();
    assert_eq!(notify.webhook, Some(WebhookFrom::File(path.clone())));
    assert_eq!(notify.command.as_deref(), Some("cat"));
    assert!(!format!("{notify:?}").contains("hush"));
    assert!(!serde_json::to_string(&notify).unwrap().contains("hush"));
    assert_eq!(
        webhook_in(&path).unwrap().as_str(),
        "https://hooks.example.com/hush"
    );
    let (notify, path) = read("{webhook: null}").unwrap();
    assert_eq!(notify.webhook, Some(WebhookFrom::Shell));
    assert!(
        webhook_in(&path)
            .unwrap_err()
            .contains("not there any more")
    );
    let (notify, _) = read("{command: cat}").unwrap();
    assert_eq!(notify.webhook, None);
    for (notify, expected) in [
        (
            "{webhook: \"http://example.com/hush\"}",
            "a webhook over http would show its URL to the network: use https",
        ),
        (
            "{webhook: hush}",
            "a webhook is a URL that begins with https://",
        ),
        ("{webhook: [https://example.com/hush]}", "expected "),
        ("{command: \" \"}", "there is nothing to run"),
        ("{url: https://example.com/hush}", "unknown key `url`"),
    ] {
        let err = read(notify).unwrap_err().to_string();
        assert!(err.contains(expected) && !err.contains("hush"), "{err}");
    }
}
