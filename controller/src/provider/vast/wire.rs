//! Vast.ai's JSON to our types and back (pure). Missing, null and unknown fields are survived.

mod offers;

use serde_json::{Map, Value, json};

pub(super) use self::offers::{matches, offer, search};
use crate::provider::{
    Actual, Charge, ImageLogin, Instance, InstanceId, Intended, Prepaid, RentRequest, SshAddress,
};

/// A number, given as one or as a string; 0 when absent.
pub(super) fn float(row: &Value, key: &str) -> f64 {
    optional_float(row, key).unwrap_or(0.0)
}

pub(super) fn optional_float(row: &Value, key: &str) -> Option<f64> {
    match row.get(key)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number| number.is_finite())
}

/// A whole number; 0 when absent.
pub(super) fn uint(row: &Value, key: &str) -> u64 {
    row.get(key)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| float(row, key).max(0.0) as u64)
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row.get(key)
        .and_then(Value::as_str)
        .map(str::trim)
        .unwrap_or_default()
}

/// The words of an error body: `msg`, `message`, `detail`, `error`, else the raw text, shortened.
pub(super) fn message(body: &Value, raw: &str) -> String {
    let said = ["msg", "message", "detail", "error"]
        .iter()
        .find_map(|key| body.get(*key).and_then(Value::as_str))
        .unwrap_or(raw)
        .trim();
    if said.is_empty() {
        return "no message".to_owned();
    }
    said.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Whether a message is about a bid: it has the word, alone or in the name of a field. Who is forbidden something did not bid too little.
pub(super) fn names_bid(message: &str) -> bool {
    let message = message.to_lowercase();
    let mut words = message.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| word.starts_with("bid") || word == "outbid")
}

/// A JSON value as a query parameter.
pub(super) fn query_value(value: &Value) -> String {
    query_text(&value.to_string())
}

/// Text as a query parameter.
pub(super) fn query_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Price of so much storage, $/h, by its price per GB and month of 720 h.
pub(super) fn per_hour(usd_per_gb_month: f64, gb: f64) -> f64 {
    usd_per_gb_month * gb / 720.0
}

/// Body of a create, with every key that the official client sends. `null` leaves it to the template, or to the server.
pub(super) fn create(request: &RentRequest, template: Option<&Template>) -> Value {
    let container = &request.container;
    let variables = request
        .env
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)));
    // The server has docker's flags among the variables, with a value that says nothing.
    let ports = container
        .ports
        .iter()
        .map(|port| (port_flag(port), json!("1")));
    let env: Map<String, Value> = variables.chain(ports).collect();
    let image = Some(&request.image).filter(|image| !image.is_empty());
    // The request's own text would take the place of the template's.
    let onstart = match template.and_then(|template| template.onstart.as_deref()) {
        Some(first) => format!("{first}\n{}", request.onstart),
        None => request.onstart.clone(),
    };
    let login = container.login.as_ref().map(|login| {
        let ImageLogin {
            registry,
            user,
            password,
        } = login;
        format!("-u {user} -p {password} {registry}")
    });
    let mut body = json!({
        "client_id": "me",
        "image": image,
        "env": env,
        "price": request.bid_usd_per_hour,
        "disk": request.disk_gb,
        "label": request.label,
        "extra": container.docker_options,
        "onstart": onstart,
        "image_login": login,
        "python_utf8": false,
        "lang_utf8": false,
        "use_jupyter_lab": false,
        "jupyter_dir": null,
        "force": false,
        // Rather no instance than a stopped one that bills storage.
        "cancel_unavail": true,
        "template_hash_id": container.template,
        "user": null,
        // Without the final t: that is how the server spells it. Said with a template, too, which may be one without ssh.
        "runtype": "ssh_direc ssh_proxy",
    });
    // The official client leaves this key out where there is none, too.
    if let Some(mount) = &container.volume {
        body["volume_info"] =
            json!({"mount_path": mount.path, "create_new": false, "volume_id": mount.volume});
    }
    body
}

/// `8080` or `5000/udp` as docker's flag.
fn port_flag(port: &str) -> String {
    let number = port.split('/').next().unwrap_or(port);
    format!("-p {number}:{port}")
}

/// What we want to know of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template {
    /// Shell text that its boxes run at every start.
    pub(super) onstart: Option<String>,
}

/// The template with a hash among those that a search answered.
pub(super) fn template(body: &Value, hash: &str) -> Option<Template> {
    let rows = body.get("templates")?.as_array()?;
    let row = rows.iter().find(|row| text(row, "hash_id") == hash)?;
    let onstart = text(row, "onstart");
    Some(Template {
        onstart: (!onstart.is_empty()).then(|| onstart.to_owned()),
    })
}

/// Months and share of a prepayment.
pub(super) fn prepaid(body: &Value) -> Prepaid {
    Prepaid {
        months: optional_float(body, "timescale"),
        discount: float(body, "discount_rate"),
    }
}

/// One instance, as it is at `now_s`, seconds since the epoch; `None` when it has no number.
pub(super) fn instance(row: &Value, now_s: f64) -> Option<Instance> {
    let id = row.get("id").and_then(Value::as_u64)?;
    let actual = match row.get("actual_status").and_then(Value::as_str) {
        None => Actual::Provisioning,
        Some("created") => Actual::Created,
        Some("loading") => Actual::Loading,
        Some("running") => Actual::Running,
        Some("stopped") => Actual::Stopped,
        Some("frozen") => Actual::Frozen,
        Some("exited") => Actual::Exited,
        Some("rebooting") => Actual::Rebooting,
        Some("recycling") => Actual::Recycling,
        Some("offline") => Actual::Offline,
        Some("error") => Actual::Error,
        Some(_) => Actual::Unknown,
    };
    let intended = match text(row, "intended_status") {
        "stopped" => Intended::Stopped,
        "frozen" => Intended::Frozen,
        _ => Intended::Running,
    };
    let contract = text(row, "cur_state");
    let base = float(row, "dph_base");
    let storage = optional_float(row, "storage_total_cost")
        .unwrap_or_else(|| (float(row, "dph_total") - base).max(0.0));
    Some(Instance {
        id,
        machine_id: uint(row, "machine_id"),
        label: row.get("label").and_then(Value::as_str).map(str::to_owned),
        intended,
        actual,
        contract_running: contract == "running",
        scheduling: intended == Intended::Running && contract == "stopped",
        status_msg: text(row, "status_msg").chars().take(500).collect(),
        is_bid: row.get("is_bid").and_then(Value::as_bool),
        gpu_usd_per_hour: base,
        storage_usd_per_hour: storage,
        disk_gb: float(row, "disk_space"),
        gpu_name: text(row, "gpu_name").to_owned(),
        num_gpus: uint(row, "num_gpus") as u32,
        ssh: ssh_addresses(row),
        start_s: float(row, "start_date"),
        end_s: optional_float(row, "end_date").filter(|end| *end > 0.0),
        up_since_s: optional_float(row, "uptime_mins")
            .filter(|minutes| *minutes >= 0.0)
            .map(|minutes| now_s - minutes * 60.0),
        charged_gpu_usd_per_hour: row
            .get("instance")
            .and_then(|charged| optional_float(charged, "gpuCostPerHour")),
        inet_down_mbps: float(row, "inet_down"),
        inet_down_usd_per_gb: float(row, "inet_down_cost"),
        inet_up_usd_per_gb: float(row, "inet_up_cost"),
    })
}

/// Direct first, then the proxy (one port further for jupyter images).
fn ssh_addresses(row: &Value) -> Vec<SshAddress> {
    let mut addresses = Vec::new();
    let direct = row
        .get("ports")
        .and_then(|ports| ports.get("22/tcp"))
        .and_then(Value::as_array)
        .and_then(|bindings| bindings.first())
        .and_then(|binding| match binding.get("HostPort")? {
            Value::String(port) => port.trim().parse().ok(),
            Value::Number(port) => port.as_u64().and_then(|port| u16::try_from(port).ok()),
            _ => None,
        });
    // The address may come with white space around it.
    let host = text(row, "public_ipaddr");
    if let Some(port) = direct
        && is_host(host)
    {
        addresses.push(SshAddress {
            host: host.to_owned(),
            port,
            proxy: false,
        });
    }
    let proxy = text(row, "ssh_host");
    let jupyter = u16::from(text(row, "image_runtype").contains("jupyter"));
    if let Ok(port) = u16::try_from(uint(row, "ssh_port"))
        && port > 0
        && is_host(proxy)
    {
        let port = port.saturating_add(jupyter);
        let known = addresses
            .iter()
            .any(|direct: &SshAddress| direct.host == proxy && direct.port == port);
        if !known {
            addresses.push(SshAddress {
                host: proxy.to_owned(),
                port,
                proxy: true,
            });
        }
    }
    addresses
}

/// A name that can be given to ssh without being taken for an option or anything else.
fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && !host.starts_with('-')
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_'))
}

/// Numbers and texts of keys: of the account a bare array, or an object that holds one; of an instance that array as a text.
pub(super) fn ssh_keys(body: &Value) -> Vec<(u64, String)> {
    let listed = ["keys", "ssh_keys"].iter().find_map(|key| body.get(*key));
    let unpacked = listed
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str::<Value>(text).ok());
    let rows = unpacked.as_ref().or(listed).unwrap_or(body).as_array();
    rows.into_iter()
        .flatten()
        .filter_map(|row| {
            let key = row.get("key").or_else(|| row.get("public_key"))?;
            Some((uint(row, "id"), key.as_str()?.to_owned()))
        })
        .collect()
}

/// Type and base64 of a public key, without its comment.
pub(super) fn key_material(key: &str) -> String {
    key.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// Adds one row of `charges` to the sum of its instance, when it is one of `instances`. The error is what cannot be read of it: a bill
/// must not be smaller for that.
pub(super) fn add_charge(
    charges: &mut Vec<Charge>,
    row: &Value,
    instances: &[InstanceId],
) -> Result<(), String> {
    let source = text(row, "source");
    let Some(id) = source
        .strip_prefix("instance-")
        .and_then(|id| id.parse().ok())
    else {
        return Ok(());
    };
    if !instances.contains(&id) {
        return Ok(());
    }
    let amount = |row: &Value| {
        optional_float(row, "amount").ok_or_else(|| format!("a charge of `{source}` has no amount"))
    };
    let mut sum = Charge {
        instance: id,
        gpu_usd: 0.0,
        disk_usd: 0.0,
        bandwidth_usd: 0.0,
    };
    let items = row.get("items").and_then(Value::as_array);
    match items.filter(|items| !items.is_empty()) {
        None => sum.gpu_usd = amount(row)?,
        Some(items) => {
            for item in items {
                let amount = amount(item)?;
                match text(item, "type") {
                    "disk" | "storage" => sum.disk_usd += amount,
                    "bandwidth" => sum.bandwidth_usd += amount,
                    _ => sum.gpu_usd += amount,
                }
            }
        }
    }
    match charges.iter_mut().find(|charge| charge.instance == id) {
        Some(charge) => {
            charge.gpu_usd += sum.gpu_usd;
            charge.disk_usd += sum.disk_usd;
            charge.bandwidth_usd += sum.bandwidth_usd;
        }
        None => charges.push(sum),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_addresses_of_an_instance_are_read_as_documented() {
        let row = json!({"id": 5, "actual_status": null, "intended_status": "running",
            "cur_state": "stopped", "public_ipaddr": " 203.0.113.4\n", "ssh_host": "ssh6.vast.ai",
            "ssh_port": 15610, "image_runtype": "jupyter_direc ssh_direc ssh_proxy",
            "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40123"}]}});
        let parsed = instance(&row, 0.0).unwrap();
        assert_eq!(parsed.actual, Actual::Provisioning);
        assert!(parsed.scheduling);
        assert_eq!(
            parsed.ssh[0],
            SshAddress {
                host: "203.0.113.4".into(),
                port: 40123,
                proxy: false
            }
        );
        assert_eq!(
            parsed.ssh[1],
            SshAddress {
                host: "ssh6.vast.ai".into(),
                port: 15611,
                proxy: true
            }
        );

        let hostile = json!({"id": 5, "public_ipaddr": "-oProxyCommand=x", "ssh_host": "a b", "ssh_port": 70000,
            "ports": {"22/tcp": null}});
        assert!(instance(&hostile, 0.0).unwrap().ssh.is_empty());
    }

    #[test]
    fn what_a_row_does_not_say_of_its_rental_is_not_known_and_an_error_is_no_silence() {
        for (row, is_bid, actual) in [
            (
                json!({"id": 5, "is_bid": null, "actual_status": "error"}),
                None,
                Actual::Error,
            ),
            (
                json!({"id": 5, "actual_status": "unheard-of"}),
                None,
                Actual::Unknown,
            ),
            (
                json!({"id": 5, "is_bid": false}),
                Some(false),
                Actual::Provisioning,
            ),
        ] {
            let parsed = instance(&row, 0.0).unwrap();
            assert_eq!((parsed.is_bid, parsed.actual), (is_bid, actual), "{row}");
        }
    }

    #[test]
    fn who_is_forbidden_something_did_not_bid_too_little() {
        for (message, about) in [
            ("Bid 0.1 is below the minimum", true),
            ("price is lower than min_bid", true),
            ("you were outbid", true),
            ("Forbidden", false),
            ("", false),
        ] {
            assert_eq!(names_bid(message), about, "{message}");
        }
    }

    #[test]
    fn charges_are_summed_per_instance_and_kind() {
        let mut charges = Vec::new();
        let row = json!({"source": "instance-9", "amount": 0.3,
            "items": [{"type": "gpu", "amount": 0.2}, {"type": "disk", "amount": 0.1}]});
        add_charge(&mut charges, &row, &[9]).unwrap();
        add_charge(&mut charges, &row, &[9]).unwrap();
        let stranger = json!({"source": "instance-8", "amount": 5});
        add_charge(&mut charges, &stranger, &[9]).unwrap();
        for broken in [
            json!({"source": "instance-9"}),
            json!({"source": "instance-9", "amount": 0.3, "items": [{"type": "gpu"}]}),
            json!({"source": "instance-9", "amount": "a lot"}),
        ] {
            let before = charges.clone();
            assert!(add_charge(&mut charges, &broken, &[9]).is_err(), "{broken}");
            assert_eq!(charges, before, "nothing of it is taken");
        }
        assert_eq!(charges.len(), 1);
        assert!((charges[0].total_usd() - 0.6).abs() < 1e-12);
        assert!((charges[0].disk_usd - 0.2).abs() < 1e-12);
    }
}
