//! Taking the data plane out of force for good.

use crate::client::Failure;
use crate::config::Config;
#[cfg(feature = "engine")]
use crate::node::DATABASE;
#[cfg(feature = "engine")]
use turnpike_store::{Store, StoreError};

/// Takes the programs off the interfaces and removes the pins.
#[cfg(feature = "engine")]
pub(crate) fn detach(config: &Config) -> Result<String, Failure> {
    let running = |place: String| {
        Err(Failure::Failed(format!("a node is running at {place}; stop it before its data plane is taken away")))
    };
    if std::net::TcpStream::connect(config.api.listen).is_ok() {
        return running(config.api.listen.to_string());
    }
    // The API of a node in another network namespace cannot be reached, but its database is in use. Held until the end,
    // so that none starts meanwhile; a database that cannot be used for another reason must not stand in the way.
    let database = config.state_dir.join(DATABASE);
    let held = database.exists().then(|| Store::open(&database, &config.node));
    if let Some(Err(StoreError::Locked { path })) = held {
        return running(path.display().to_string());
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
