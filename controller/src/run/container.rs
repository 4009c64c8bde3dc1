//! What a container is ordered with: the run file's keys, and the password that they leave to the caller's shell or to a program of
//! his. It is read when it is needed and goes into the order alone.

use crate::{
    credentials::process,
    error::CommandError,
    provider::{Container, ImageLogin, volumes::Mount},
    spec::{RunSpec, container::PasswordFrom},
};

/// Whether the password is there that an order needs, before anything is paid for. A program that would give it is asked when it is
/// needed: it may want its user's finger.
///
/// # Errors
/// When its variable is not set.
pub fn check(spec: &RunSpec, shell: &dyn Fn(&str) -> Option<String>) -> Result<(), CommandError> {
    match spec.container.login.as_ref().map(|login| &login.password) {
        Some(PasswordFrom::Variable(name)) => variable(name, shell)
            .map(drop)
            .map_err(|why| not_rented(spec, &why)),
        _ => Ok(()),
    }
}

/// What the container of a run is ordered with.
///
/// # Errors
/// When there is no password; the text never holds one.
pub(crate) async fn container(
    spec: &RunSpec,
    shell: &(dyn Fn(&str) -> Option<String> + Send + Sync),
) -> Result<Container, CommandError> {
    let keys = &spec.container;
    let login = match &keys.login {
        None => None,
        Some(login) => {
            let password = match &login.password {
                PasswordFrom::Variable(name) => variable(name, shell),
                PasswordFrom::Command(command) => match process::first_line(command).await {
                    Ok(line) => Ok(line.as_str().to_owned()),
                    Err(err) => Err(format!("`image_login.password_command`: {err}")),
                },
            };
            Some(ImageLogin {
                registry: login.registry.clone(),
                user: login.user.clone(),
                password: password
                    .and_then(one_word)
                    .map_err(|why| not_rented(spec, &why))?,
            })
        }
    };
    Ok(Container {
        login,
        ports: keys.ports.clone(),
        docker_options: keys.docker_options.clone(),
        template: keys.template.clone(),
        volume: keys.volume.as_ref().map(|mount| Mount {
            volume: mount.id,
            path: mount.path.clone(),
        }),
    })
}

fn variable(name: &str, shell: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    shell(name)
        .filter(|value| !value.trim().is_empty())
        .map(|value| value.trim().to_owned())
        .ok_or_else(|| {
            format!("`image_login.password_env` names {name} of your shell, where it is not set")
        })
}

/// The market takes the login as words, without quotes.
fn one_word(password: String) -> Result<String, String> {
    match password.contains(char::is_whitespace) {
        false => Ok(password),
        true => Err(
            "the password of `image_login` has a space in it, which the market cannot take"
                .to_owned(),
        ),
    }
}

fn not_rented(spec: &RunSpec, why: &str) -> CommandError {
    let text = format!(
        "run `{}` was not rented: the registry of its image would let nobody in",
        spec.name
    );
    CommandError::usage(text).because(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::container::Login;

    fn spec(password: PasswordFrom) -> RunSpec {
        let mut spec = RunSpec::from_flags_for_tests();
        spec.container.login = Some(Login {
            registry: "ghcr.io".to_owned(),
            user: "me".to_owned(),
            password,
        });
        spec
    }

    #[tokio::test]
    async fn a_password_comes_from_a_variable_or_a_program_and_is_in_no_text_of_ours() {
        let shell = |name: &str| (name == "TOKEN").then(|| "hunter2\n".to_owned());
        for from in [
            PasswordFrom::Variable("TOKEN".to_owned()),
            PasswordFrom::Command("printf 'hunter%s\\nrest' 2".to_owned()),
        ] {
            let spec = spec(from);
            check(&spec, &shell).unwrap();
            let container = container(&spec, &shell).await.unwrap();
            assert_eq!(container.login.as_ref().unwrap().password, "hunter2");
            assert!(!format!("{container:?}").contains("hunter2"));
            assert!(!serde_json::to_string(&spec).unwrap().contains("hunter2"));
        }
        for (from, says) in [
            (
                PasswordFrom::Variable("OTHER".to_owned()),
                "names OTHER of your shell",
            ),
            (
                PasswordFrom::Command("printf 'hunter 2'".to_owned()),
                "a space in it",
            ),
            (
                PasswordFrom::Command("true".to_owned()),
                "its first line is empty",
            ),
            (PasswordFrom::Command("false".to_owned()), "ended with"),
        ] {
            let err = container(&spec(from), &shell).await.unwrap_err();
            let text = format!("{} {:?}", err.message(), err.causes());
            assert!(text.contains(says), "{text}");
            assert!(!text.contains("hunter"), "{text}");
        }
        let unset = spec(PasswordFrom::Variable("OTHER".to_owned()));
        assert!(check(&unset, &shell).is_err(), "before anything is rented");
    }
}
