//! Figures of an observation as people type them.

use crate::{
    error::CommandError,
    spec::{accelerators, values},
    store::Observation,
};

/// What was seen.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Figures {
    /// GPU and count, such as "RTX 4090:1"
    #[arg(long, value_name = "NAME:COUNT")]
    gpu: Option<String>,
    /// Tokens per second of all GPUs, such as 142k
    #[arg(long, value_name = "TOKENS", value_parser = speed)]
    tokens_per_s: Option<f64>,
    /// Steps per second
    #[arg(long, value_name = "STEPS", value_parser = positive)]
    steps_per_s: Option<f64>,
    /// Use of the GPUs, percent
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    gpu_utilisation: Option<f64>,
    /// Most memory of one GPU, GiB
    #[arg(long, value_name = "GIB", value_parser = positive)]
    peak_vram: Option<f64>,
    /// Most memory of the host, GB
    #[arg(long, value_name = "GB", value_parser = positive)]
    peak_ram: Option<f64>,
    /// Paid time before it trained, such as 25m
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    setup: Option<f64>,
    /// Paid time of trainings that came to nothing, such as 2h
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    debug: Option<f64>,
    /// The machine, by the market's number
    #[arg(long, value_name = "ID")]
    machine: Option<u64>,
    /// Something to remember of it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

impl Figures {
    /// GPU and count, where they were typed.
    pub(super) fn gpu(&self) -> Result<Option<(String, u32)>, CommandError> {
        let Some(text) = &self.gpu else {
            return Ok(None);
        };
        let found = accelerators::parse(text)
            .map_err(|why| CommandError::usage(format!("--gpu: {why}")))?;
        Ok(Some((found.gpu_name, found.num_gpus)))
    }

    /// Nothing that a plan could go by was typed.
    pub(super) fn are_none(&self) -> bool {
        self.tokens_per_s.is_none()
            && self.steps_per_s.is_none()
            && self.gpu_utilisation.is_none()
            && self.peak_vram.is_none()
            && self.peak_ram.is_none()
            && self.setup.is_none()
            && self.debug.is_none()
    }

    /// Nothing at all was typed.
    pub(super) fn are_empty(&self) -> bool {
        self.are_none() && self.gpu.is_none() && self.machine.is_none() && self.note.is_none()
    }

    /// Puts what was typed in the place of what is known.
    pub(super) fn put_into(&self, seen: &mut Observation) -> Result<(), CommandError> {
        if let Some((gpu, count)) = self.gpu()? {
            seen.gpu = gpu;
            seen.num_gpus = Some(count);
        }
        let put = |known: &mut Option<f64>, typed: Option<f64>| *known = typed.or(*known);
        put(&mut seen.tokens_per_s, self.tokens_per_s);
        put(&mut seen.steps_per_s, self.steps_per_s);
        put(&mut seen.gpu_utilisation_percent, self.gpu_utilisation);
        put(&mut seen.peak_vram_gib, self.peak_vram);
        put(&mut seen.peak_ram_gb, self.peak_ram);
        put(&mut seen.setup_s, self.setup);
        put(&mut seen.debug_s, self.debug);
        seen.machine_id = self.machine.or(seen.machine_id);
        if self.note.is_some() {
            seen.note.clone_from(&self.note);
        }
        Ok(())
    }
}

fn speed(text: &str) -> Result<f64, String> {
    values::amount(text).or_else(|_| positive(text))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above 0 is expected".to_owned()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim().trim_end_matches('%').trim().parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("a number from 0 to 100 is expected".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    Ok(values::duration(text)?.as_secs_f64())
}
