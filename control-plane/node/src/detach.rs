//! Taking the data plane out of force for good.

use crate::client::Failure;
use crate::config::Config;

/// Takes the programs off the interfaces and removes the pins.
#[cfg(feature = "engine")]
pub(crate) fn detach(config: &Config) -> Result<String, Failure> {
    if std::net::TcpStream::connect(config.api.listen).is_ok() {
        let text = format!("a node is running at {}; stop it before its data plane is taken away", config.api.listen);
        return Err(Failure::Failed(text));
    }
    let removed =
        turnpike_engine::Engine::detach(&config.pin_dir).map_err(|error| Failure::Failed(error.to_string()))?;
    if removed.is_empty() {
        return Ok(format!("nothing was in force at {}\n", config.pin_dir.display()));
    }
    Ok(removed.iter().map(|what| format!("removed {what}\n")).collect())
}

#[cfg(not(feature = "engine"))]
pub(crate) fn detach(_: &Config) -> Result<String, Failure> {
    Err(Failure::Failed(WITHOUT_ENGINE.to_owned()))
}

#[cfg(not(feature = "engine"))]
pub(crate) const WITHOUT_ENGINE: &str =
    "this program was built without a data plane; build it with the feature `engine`";
