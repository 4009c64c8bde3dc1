//! The network of tier 2: a bridge with a subnet of its own, a pair of interfaces and an address per box, and the faults of a line.
//!
//! Names: bridge `spotter-<subnet>`, nft table `spotter_sim_<tag>`, interfaces `s<tag>-<number>` and for a slow line those of
//! [`Part`]. The bridge's hardware address holds the tag, so that a sweep after a crash knows whose it is from the instant it exists.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, bail};
use nix::unistd::Pid;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::{
    delay::DelayLine,
    link::{Link, Mode},
    tools::{Tools, look_for, run, run_async},
};

/// A bridge and its subnet, 10.99.x.0/24.
pub(super) struct Network {
    tools: Arc<Tools>,
    subnet: u8,
    tag: String,
    table: String,
    /// Numbers in use, and what is done to the ssh traffic of each.
    numbers: Mutex<Numbers>,
}

#[derive(Default)]
struct Numbers {
    modes: BTreeMap<u8, Mode>,
    last: u8,
}

impl Network {
    /// Makes the bridge on the first free subnet, and the table of packets to drop.
    pub(super) fn open(tools: Arc<Tools>, tag: &str) -> anyhow::Result<Network> {
        let ip = tools.path("ip");
        let subnet = (0..=u8::MAX)
            .find_map(|subnet| claim(&tools, subnet, tag).transpose())
            .context("each of the 256 subnets in 10.99.0.0/16 is in use on this machine")??;
        let bridge = bridge_name(subnet);
        // From here on, dropping the network removes what was made.
        let network = Network {
            tools: Arc::clone(&tools),
            subnet,
            tag: tag.to_owned(),
            table: table_name(tag),
            numbers: Mutex::default(),
        };
        run(
            ip,
            &[
                "address",
                "add",
                &format!("{}/24", network.host()),
                "dev",
                &bridge,
            ],
        )?;
        run(ip, &["link", "set", &bridge, "up"])?;
        let table = &network.table;
        run(
            tools.path("nft"),
            &[&format!(
                "add table inet {table}; \
                 add set inet {table} dropped {{ type ipv4_addr; }}; \
                 add set inet {table} refused {{ type ipv4_addr; }}; \
                 add chain inet {table} input {{ type filter hook input priority -10; }}; \
                 add chain inet {table} output {{ type filter hook output priority -10; }}; \
                 add rule inet {table} input ip saddr @dropped tcp sport 22 drop; \
                 add rule inet {table} output ip daddr @dropped tcp dport 22 drop; \
                 add rule inet {table} output ip daddr @refused tcp dport 22 reject with tcp reset"
            )],
        )?;
        Ok(network)
    }

    /// This machine's address in it.
    pub(super) fn host(&self) -> Ipv4Addr {
        self.address(1)
    }

    fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.subnet, number)
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next free address: a box that starts again gets another one, as on the market.
    pub(super) fn lease(self: &Arc<Self>) -> anyhow::Result<Lease> {
        let mut numbers = self.numbers();
        let after_last =
            (0..253).map(|step| 2 + ((u16::from(numbers.last.max(1)) - 1 + step) % 253) as u8);
        let Some(number) = after_last
            .into_iter()
            .find(|number| !numbers.modes.contains_key(number))
        else {
            bail!(
                "all 253 addresses of 10.99.{}.0/24 are taken by boxes",
                self.subnet
            );
        };
        numbers.last = number;
        numbers.modes.insert(number, Mode::Open);
        Ok(Lease {
            network: Arc::clone(self),
            number,
            line: None,
        })
    }

    /// The command that makes both sets what the books say, at once.
    fn sets(&self) -> String {
        let table = &self.table;
        let mut text = format!("flush set inet {table} dropped; flush set inet {table} refused");
        for (number, mode) in &self.numbers().modes {
            let set = match mode {
                Mode::Open => continue,
                Mode::Drop => "dropped",
                Mode::Refuse => "refused",
            };
            text.push_str(&format!(
                "; add element inet {table} {set} {{ {} }}",
                self.address(*number)
            ));
        }
        text
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(err) = sweep(&self.tag) {
            warn!(
                error = format!("{err:#}"),
                "part of the boxes' network was left behind"
            );
        }
    }
}

/// The place of one started box in the network.
pub(super) struct Lease {
    network: Arc<Network>,
    number: u8,
    /// Between the box and the bridge while the line is slow.
    line: Option<DelayLine>,
}

impl Lease {
    pub(super) fn address(&self) -> Ipv4Addr {
        self.network.address(self.number)
    }

    fn interface(&self, part: Part) -> String {
        format!("{}{}", part.prefix(&self.network.tag), self.number)
    }

    async fn run(&self, program: &str, args: &str) -> anyhow::Result<String> {
        let args = args.split(' ').map(str::to_owned).collect();
        run_async(self.network.tools.path(program), args).await
    }

    /// Puts `eth0` into the namespace of PID 1 and its other end on the bridge, apart from the other boxes.
    pub(super) async fn plug(&self, init: Pid) -> anyhow::Result<()> {
        let interface = self.interface(Part::Box);
        self.run(
            "ip",
            &format!("link add {interface} type veth peer name eth0 netns {init}"),
        )
        .await?;
        self.join(&interface).await?;
        self.run("ip", &format!("link set {interface} up")).await?;
        Ok(())
    }

    /// Makes an interface the box's port of the bridge.
    async fn join(&self, interface: &str) -> anyhow::Result<()> {
        let bridge = bridge_name(self.network.subnet);
        self.run("ip", &format!("link set {interface} master {bridge}"))
            .await?;
        self.run(
            "ip",
            &format!("link set {interface} type bridge_slave isolated on"),
        )
        .await?;
        Ok(())
    }

    /// Nothing gets through any more, in either direction, for as long as the lease lives.
    pub(super) async fn cut(&mut self) -> anyhow::Result<()> {
        self.set_mode(Mode::Drop).await?;
        self.run(
            "ip",
            &format!("link set {} down", self.interface(Part::Box)),
        )
        .await?;
        Ok(())
    }

    /// Makes the line of the box whose PID 1 is `init` what `link` says.
    pub(super) async fn set(&mut self, init: Pid, link: Link, reset: bool) -> anyhow::Result<()> {
        self.shape(link).await?;
        self.set_mode(link.mode).await?;
        if reset || link.mode == Mode::Refuse {
            self.reset(init).await?;
        }
        Ok(())
    }

    async fn set_mode(&self, mode: Mode) -> anyhow::Result<()> {
        self.network.numbers().modes.insert(self.number, mode);
        let text = self.network.sets();
        run_async(self.network.tools.path("nft"), vec![text]).await?;
        Ok(())
    }

    /// Ends the box's side of each ssh connection with a RST, also of those that are idle.
    async fn reset(&self, init: Pid) -> anyhow::Result<()> {
        let ss = self.network.tools.path("ss").display().to_string();
        let filter = "-H -t -n state established sport = :22";
        self.run("nsenter", &format!("-t {init} -n {ss} -K {filter}"))
            .await?;
        let left = self
            .run("nsenter", &format!("-t {init} -n {ss} {filter}"))
            .await?;
        if !left.trim().is_empty() {
            bail!(
                "tier 2 cannot reset connections here: the kernel was built without INET_DIAG_DESTROY; use tier 1 or 1.5"
            );
        }
        Ok(())
    }

    /// Puts a delay line between box and bridge, changes it, or takes it out again. The box's own end is not touched: its
    /// address and its connections live through all of that.
    async fn shape(&mut self, link: Link) -> anyhow::Result<()> {
        if let Some(line) = &self.line {
            line.set(link);
        }
        match (&self.line, link.is_slow()) {
            (None, true) => {
                let inserted = self.insert_line(link).await;
                if inserted.is_err() {
                    self.remove_line().await?;
                }
                inserted.context("tier 2 cannot delay or slow the line here; use tier 1 or 1.5")
            }
            (Some(_), false) => self.remove_line().await,
            _ => Ok(()),
        }
    }

    async fn insert_line(&mut self, link: Link) -> anyhow::Result<()> {
        let [near, far, between, own] =
            [Part::Near, Part::Far, Part::Between, Part::Box].map(|part| self.interface(part));
        self.line = Some(DelayLine::open(&near, &far, link)?);
        // What this process is too slow to take waits in the kernel: a whole TCP window, and nothing is lost.
        for tap in [&near, &far] {
            self.run("ip", &format!("link set {tap} txqueuelen 10000"))
                .await?;
        }
        self.run("ip", &format!("link add {between} type bridge"))
            .await?;
        self.run("ip", &format!("link set {between} up")).await?;
        self.run("ip", &format!("link set {near} master {between}"))
            .await?;
        self.join(&far).await?;
        self.run("ip", &format!("link set {own} master {between}"))
            .await?;
        Ok(())
    }

    /// Frames under way have left by then: a line that is not slow holds none.
    async fn remove_line(&mut self) -> anyhow::Result<()> {
        self.join(&self.interface(Part::Box)).await?;
        self.line = None;
        for part in Part::LINE {
            let (ip, name) = (
                self.network.tools.path("ip").to_owned(),
                self.interface(part),
            );
            spawn_blocking(move || delete_link(&ip, &name)).await??;
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The kernel takes its time to remove the interfaces of a namespace that ended, and the next box wants the names.
        let parts = match self.line.take() {
            Some(_) => Part::ALL.as_slice(),
            None => &[Part::Box],
        };
        let ip = self.network.tools.path("ip");
        let unplugged = parts
            .iter()
            .map(|part| delete_link(ip, &self.interface(*part)))
            .collect::<Vec<_>>();
        let blocked = self.network.numbers().modes.remove(&self.number) != Some(Mode::Open);
        let opened = if blocked {
            run(self.network.tools.path("nft"), &[&self.network.sets()]).map(|_| ())
        } else {
            Ok(())
        };
        for err in unplugged
            .into_iter()
            .chain([opened])
            .filter_map(Result::err)
        {
            warn!(address = %self.address(), error = format!("{err:#}"), "the address of a box is not quite free");
        }
    }
}

/// Removes an interface, if the kernel has not done so yet.
fn delete_link(ip: &Path, interface: &str) -> anyhow::Result<()> {
    match run(ip, &["link", "delete", interface]) {
        Err(err) if Path::new("/sys/class/net").join(interface).exists() => Err(err),
        _ => Ok(()),
    }
}

/// Makes the bridge of a subnet if nobody has it, by the kernel's own word: two simulators may try at once.
fn claim(tools: &Tools, subnet: u8, tag: &str) -> anyhow::Result<Option<u8>> {
    let ip = tools.path("ip");
    let routes = run(
        ip,
        &["-4", "route", "show", "match", &format!("10.99.{subnet}.1")],
    )?;
    if routes.lines().any(|route| !route.starts_with("default")) {
        return Ok(None);
    }
    match run(
        ip,
        &[
            "link",
            "add",
            &bridge_name(subnet),
            "address",
            &hardware_address(tag),
            "type",
            "bridge",
        ],
    ) {
        Ok(_) => Ok(Some(subnet)),
        Err(err) if format!("{err:#}").contains("File exists") => Ok(None),
        Err(err) => Err(err),
    }
}

/// Removes what a simulator with this tag has left.
pub(super) fn sweep(tag: &str) -> anyhow::Result<()> {
    if let Some(ip) = look_for("ip") {
        for entry in fs::read_dir("/sys/class/net")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
            let bridge = name.starts_with("spotter-") && address.trim() == hardware_address(tag);
            let part = Part::ALL
                .iter()
                .any(|part| name.starts_with(&part.prefix(tag)));
            if bridge || part {
                delete_link(&ip, &name)?;
            }
        }
    }
    if let Some(nft) = look_for("nft") {
        // Where there are no tables to list, there are none of ours.
        let tables = run(&nft, &["list", "tables", "inet"]).unwrap_or_default();
        let table = table_name(tag);
        if tables
            .lines()
            .any(|line| line.split(' ').next_back() == Some(&table))
        {
            run(&nft, &["delete", "table", "inet", &table])?;
        }
    }
    Ok(())
}

fn bridge_name(subnet: u8) -> String {
    format!("spotter-{subnet}")
}

/// An interface that belongs to one box.
///
/// While its line is slow: box - `Box` - `Between` - `Near` - delay line - `Far` - bridge of all.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// Our end of the pair whose other end is the box's `eth0`.
    Box,
    /// The delay line's end at the box.
    Near,
    /// The delay line's end at the bridge of all.
    Far,
    /// A bridge that holds `Box` and `Near` alone.
    Between,
}

impl Part {
    const ALL: [Part; 4] = [Part::Box, Part::Near, Part::Far, Part::Between];
    const LINE: [Part; 3] = [Part::Near, Part::Far, Part::Between];

    /// What its name begins with: with a number of up to three digits, the 15 characters that a name may have.
    fn prefix(self, tag: &str) -> String {
        let part = match self {
            Part::Box => 's',
            Part::Near => 'n',
            Part::Far => 'f',
            Part::Between => 'b',
        };
        format!("{part}{tag}-")
    }
}

fn table_name(tag: &str) -> String {
    format!("spotter_sim_{tag}")
}

/// `02`: locally administered. The rest is the tag's ten digits.
fn hardware_address(tag: &str) -> String {
    let pairs: Vec<&str> = (0..5).map(|pair| &tag[pair * 2..pair * 2 + 2]).collect();
    format!("02:{}", pairs.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_holds_the_tag() {
        assert_eq!(hardware_address("0123456789"), "02:01:23:45:67:89");
    }
}
