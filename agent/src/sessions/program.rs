//! What a shim executes: which shell, found where, in which environment.

use std::{
    ffi::{CString, OsStr, OsString},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{
    environment::{self, Environment},
    record::Spec,
};
use crate::config::{self, DEFAULT_PATH, Home};

/// What the child executes, prepared before the fork.
pub struct Program {
    /// File to execute.
    pub path: CString,
    /// Arguments, the name first.
    pub args: Vec<CString>,
    /// `NAME=value` for each variable.
    pub env: Vec<CString>,
    /// Working directory.
    pub dir: PathBuf,
}

impl Program {
    /// Decides on shell, search path and environment. Nothing of it needs memory or files after the fork.
    pub fn prepare(
        home: &Home,
        spec: Option<&Spec>,
        command: &[OsString],
        requested: Environment,
    ) -> anyhow::Result<Self> {
        let venv = Path::new(environment::IMAGE_VENV);
        let venv = venv.join("bin/python").exists().then_some(venv);
        let user_home = config::user_home();
        let container = environment::container_environment(home);
        let env = environment::job_environment(
            container,
            venv,
            user_home.as_deref().map(Path::as_os_str),
            requested,
        );

        let search = env
            .get(OsStr::new("PATH"))
            .cloned()
            .unwrap_or_else(|| DEFAULT_PATH.into());
        let shell = if config::find_program("bash", &search).is_some() {
            "bash"
        } else {
            "sh"
        };
        let args = match (command, spec) {
            ([], Some(spec)) => vec![shell.into(), "-c".into(), OsString::from(&spec.command)],
            ([], None) => anyhow::bail!("neither spec.json nor the command line names a command"),
            (command, _) => command.to_vec(),
        };
        let name = &args[0];
        let path = match name.to_str() {
            Some(plain) if !plain.contains('/') => {
                config::find_program(plain, &search).unwrap_or_else(|| name.into())
            }
            _ => name.into(),
        };
        let c_string = |text: OsString| {
            CString::new(text.into_vec()).context("a NUL byte in the command or its environment")
        };
        let pair = |(name, value): (OsString, OsString)| {
            let mut text = name;
            text.push("=");
            text.push(value);
            c_string(text)
        };
        Ok(Self {
            path: c_string(path.into_os_string())?,
            args: args.into_iter().map(c_string).collect::<Result<_, _>>()?,
            env: env.into_iter().map(pair).collect::<Result<_, _>>()?,
            dir: spec.map_or_else(|| "/".into(), |spec| spec.dir.clone()),
        })
    }
}
