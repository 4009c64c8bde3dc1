//! What the fault switches make of an instance's row (pure): ports that come late, addresses that lead nowhere, stale readings.

use serde_json::{Map, Value, json};

use crate::{
    control::faults::{Faults, NoPorts, SshRoute, Telemetry},
    market::{
        Millis,
        instance::{Instance, Status},
    },
};

/// A port of this machine on which nothing listens: discard.
const DEAD_PORT: u16 = 9;

/// Changes a row as the switches say.
pub fn dress(row: &mut Map<String, Value>, faults: &Faults, instance: &Instance, now: Millis) {
    let mut set = |key: &str, value: Value| {
        row.insert(key.to_owned(), value);
    };
    match faults.telemetry {
        Telemetry::Unknown => {}
        Telemetry::Zero => {
            for key in [
                "gpu_util",
                "gpu_temp",
                "cpu_util",
                "mem_usage",
                "vmem_usage",
            ] {
                set(key, json!(0.0));
            }
            set("disk_usage", json!(0.0));
            set("disk_util", json!(0.0));
        }
        Telemetry::Stale => {
            set("gpu_util", json!(97.0));
            set("gpu_temp", json!(61.0));
            set("cpu_util", json!(0.31));
            set("mem_usage", json!(11.2));
            set("disk_usage", json!(9.7));
            set("disk_util", json!(0.24));
        }
    }
    let up = instance.status == Some(Status::Running) && instance.address.is_some();
    if up {
        let refused = json!({"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": DEAD_PORT.to_string()}]});
        match faults.ssh_route {
            SshRoute::Both => {}
            SshRoute::Proxy => set("ports", refused),
            SshRoute::Direct => set("ssh_port", DEAD_PORT.into()),
        }
        if faults.ports_exhausted {
            set("ports", json!({}));
        }
    }
    if faults.ports_exhausted {
        set("direct_port_count", json!(0));
    }
    let since = instance.container_started_ms.unwrap_or(now);
    let late = up && ((now - since) as f64) < faults.ports_delay_s * 1000.0;
    if late {
        // The proxy's name is as late as the ports.
        set("ssh_host", Value::Null);
    }
    if late || !up {
        match faults.no_ports {
            NoPorts::Empty => set("ports", json!({})),
            NoPorts::Null => set("ports", Value::Null),
            NoPorts::NullEntry => set("ports", json!({"22/tcp": null})),
            NoPorts::Absent => {
                row.remove("ports");
            }
        }
    }
    if faults.padded_address {
        let address = row.get("public_ipaddr").and_then(Value::as_str);
        let padded = format!(" {}\n", address.unwrap_or_default());
        row.insert("public_ipaddr".to_owned(), json!(padded));
    }
}
