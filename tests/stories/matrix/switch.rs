//! A switch of the S3 server in one setting, and how it is put on.

use serde_json::{Value, json};
use spotter_sim::s3::{Fault, Order, Switchboard};

/// Requests among which a slow fault finds one.
const SLOW_AMONG: u32 = 12;

/// What is wrong with the server.
#[derive(Debug, Clone)]
pub struct Switch {
    /// For people.
    pub name: String,
    /// Off from the beginning: a clock does not jump while somebody looks.
    clock: Value,
    orders: Vec<Order>,
    /// A commit may lie there in half until it is put again.
    pub tears: bool,
}

impl Switch {
    /// Nothing is wrong.
    pub fn none() -> Switch {
        Switch {
            name: "none".to_owned(),
            clock: json!({}),
            orders: Vec::new(),
            tears: false,
        }
    }

    /// Every switch that the server has. Each of these operations meets the fault once; those that take time come once in all.
    pub fn each(operations: &[String]) -> Vec<Switch> {
        let mut all = vec![Switch::none()];
        for fault in Fault::each() {
            let takes_time = matches!(fault, Fault::StallMs(_) | Fault::BytesPerS(_));
            let orders = if takes_time {
                vec![Order::next("*", 1, fault.clone())]
            } else {
                let order = |operation: &String| Order::next(operation, 1, fault.clone());
                operations.iter().map(order).collect()
            };
            all.push(Switch {
                name: json!(fault).to_string().replace('"', ""),
                orders,
                tears: fault == Fault::Torn,
                ..Switch::none()
            });
        }
        for (key, offset_s) in [
            ("date_offset_s", 3_600),
            ("date_offset_s", -3_600),
            ("clock_offset_s", 7_200),
            ("clock_offset_s", -7_200),
        ] {
            all.push(Switch {
                name: format!("{key} {offset_s}"),
                clock: json!({ key: offset_s }),
                ..Switch::none()
            });
        }
        all
    }

    /// Whether the server's clock is behind.
    pub fn is_behind(&self) -> bool {
        let offsets = self.clock.as_object().expect("it was made as one");
        offsets.values().any(|offset_s| offset_s.as_i64() < Some(0))
    }

    /// What holds from the first request on.
    pub fn set_clock(&self, board: &Switchboard) {
        board.apply(self.clock.clone()).unwrap();
    }

    /// Orders the faults. Slow ones come at a request that `draw` picks.
    pub fn put_on(&self, board: &Switchboard, draw: u32) {
        for order in &self.orders {
            let mut order = order.clone();
            if order.operation == "*" {
                order.after = draw % SLOW_AMONG;
            }
            board.inject(order);
        }
    }
}
