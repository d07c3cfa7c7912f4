//! Carries out what is safe.

use super::Remedy;
use std::process::{Command, Stdio};

/// Runs a command, or writes a setting; or says why it could not be.
pub fn carry_out(remedy: &Remedy) -> Result<(), String> {
    match remedy {
        Remedy::Run(words) => {
            let Some((program, args)) = words.split_first() else { return Ok(()) };
            let output = Command::new(program).args(args).stdin(Stdio::null()).output();
            match output {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Err(format!("there is no program {program}: install its package"))
                }
                Err(error) => Err(error.to_string()),
            }
        }
        Remedy::Set { file, text } => std::fs::write(file, text).map_err(|error| error.to_string()),
        Remedy::Command(_) | Remedy::Advice(_) => Err("this is left to you".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_run_and_their_failures_told() {
        assert_eq!(carry_out(&Remedy::run("true")), Ok(()));
        let failed = carry_out(&Remedy::run("ls /there/is/none")).unwrap_err();
        assert!(failed.contains("/there/is/none"), "{failed}");
        let missing = carry_out(&Remedy::run("no-such-program-here")).unwrap_err();
        assert!(missing.contains("there is no program"), "{missing}");
        assert!(carry_out(&Remedy::Command("reboot".into())).is_err());
    }

    #[test]
    fn settings_are_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        assert_eq!(carry_out(&Remedy::Set { file: path, text: "2".into() }), Ok(()));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "2");
    }
}
