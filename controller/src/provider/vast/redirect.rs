//! Where an answer that points elsewhere may be followed (pure): the key goes nowhere but to the API it belongs to.

use reqwest::{Method, StatusCode, Url};

/// Answers in a row that point elsewhere are followed so often.
pub(super) const MOST: usize = 5;
/// The provider's own domain.
const DOMAIN: &str = "vast.ai";

/// Where a request has to go instead; `None`: the answer is no redirect. The error says why it is not followed.
pub(super) fn next(
    from: &Url,
    method: &Method,
    status: StatusCode,
    location: Option<&str>,
) -> Option<Result<Url, String>> {
    let keeps_method = match status.as_u16() {
        301..=303 => *method == Method::GET,
        307 | 308 => true,
        _ => return None,
    };
    let to = match from.join(location?) {
        Ok(to) => to,
        Err(err) => return Some(Err(format!("it points to no address: {err}"))),
    };
    let host = to.host_str().unwrap_or_default();
    Some(if !may_keep_key(from, &to) {
        Err(format!("it points to `{host}`, which does not get the key"))
    } else if !keeps_method {
        Err(format!(
            "HTTP {status} would turn what was asked into a read"
        ))
    } else {
        Ok(to)
    })
}

/// Whether the key may go from one address to another: to the same host, or over TLS between two of the provider's.
fn may_keep_key(from: &Url, to: &Url) -> bool {
    let same_door =
        from.scheme() == to.scheme() && from.port_or_known_default() == to.port_or_known_default();
    let of_provider = |url: &Url| {
        let host = url.host_str().unwrap_or_default();
        host == DOMAIN || host.ends_with(".vast.ai")
    };
    let between_theirs = to.scheme() == "https" && of_provider(from) && of_provider(to);
    same_door && (from.host_str() == to.host_str() || between_theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: &str, method: Method, status: u16, to: Option<&str>, expected: &str) {
        let status = StatusCode::from_u16(status).unwrap();
        let found = next(&from.parse().unwrap(), &method, status, to);
        let found = match &found {
            None => "stays",
            Some(Ok(url)) => url.as_str(),
            Some(Err(_)) => "refused",
        };
        assert_eq!(found, expected, "{from} {method} {to:?}");
    }

    #[test]
    fn the_key_follows_within_its_host_and_between_hosts_of_the_provider_over_tls_only() {
        let own = "https://console.vast.ai/api/v0/ssh/";
        let get = Method::GET;
        check(own, get.clone(), 200, None, "stays");
        check(own, get.clone(), 302, None, "stays");
        check(
            own,
            get.clone(),
            302,
            Some("/api/v1/ssh/"),
            "https://console.vast.ai/api/v1/ssh/",
        );
        let other = "https://cloud.vast.ai/api/v0/ssh/";
        check(own, get.clone(), 301, Some(other), other);
        check(own, Method::PUT, 308, Some(other), other);
        check(own, Method::PUT, 302, Some(other), "refused");
        for elsewhere in [
            "http://console.vast.ai/api/v0/ssh/",
            "https://console.vast.ai:8443/api/v0/ssh/",
            "https://vast.ai.example.com/",
            "https://notvast.ai/",
            "//example.com/api/v0/ssh/",
            "https://example.com/",
        ] {
            check(own, get.clone(), 307, Some(elsewhere), "refused");
        }
        let sim = "http://127.0.0.1:8000/a";
        check(sim, get.clone(), 307, Some("/b"), "http://127.0.0.1:8000/b");
        check(
            sim,
            get.clone(),
            307,
            Some("http://127.0.0.1:8001/b"),
            "refused",
        );
        check(
            sim,
            get.clone(),
            307,
            Some("http://localhost:8000/b"),
            "refused",
        );
        // In the clear, a host of the provider is anybody.
        let clear = "http://console.vast.ai/a";
        check(clear, get, 307, Some("http://cloud.vast.ai/a"), "refused");
    }
}
