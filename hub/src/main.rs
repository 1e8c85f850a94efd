//! The `hub` binary: reads the command line, sets up the log, runs the command.

use std::io::Write;
use std::process::ExitCode;

use hub::arguments::{self, Command, USAGE};
use hub::cli::{self, Told};
use hub::config::{Config, Environment};
use hub::error::{Error, Result};
use hub::files;
use hub::serve::{DRAIN_MAX, Server};
use hub::shutdown::{self, Shutdown};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match run() {
        Ok(is_good) => ExitCode::from(u8::from(!is_good)),
        Err(error) => {
            let usage = matches!(error, Error::Argument { .. }).then_some(USAGE);
            // Where not even this can be written, the exit code has to say it alone.
            let _unwritable =
                write!(std::io::stderr(), "hub: {}\n{}", error.logged(), usage.unwrap_or_default());
            ExitCode::from(if usage.is_some() { 2 } else { 1 })
        }
    }
}

/// Runs the command; says whether it found nothing wrong.
fn run() -> Result<bool> {
    let mut is_good = true;
    let told = match arguments::read(std::env::args_os().skip(1))? {
        Command::Serve { config } => return serve(&config).map(|()| true),
        Command::Check { config } => judged(asked(&config, cli::check)?, &mut is_good),
        Command::Status { config } => judged(asked(&config, cli::status)?, &mut is_good),
        Command::Verify { config, database } => {
            judged(asked(&config, async |config| cli::verify(config, &database).await)?, &mut is_good)
        }
        Command::Key { config, database, action } => {
            asked(&config, async |config| cli::key(config, &database, action).await)?
        }
        Command::OpenApi => cli::openapi(),
        Command::Version => concat!("hub ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
        Command::Help => USAGE.to_owned(),
    };
    std::io::stdout().write_all(told.as_bytes()).map_err(Error::Output)?;
    Ok(is_good)
}

fn judged(told: Told, is_good: &mut bool) -> String {
    *is_good = told.is_good;
    told.text
}

fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.to_string_lossy().into_owned())))
        .collect()
}

/// Asks something on behalf of a person: what it found is printed, not logged.
fn asked<T>(path: &std::path::Path, ask: impl AsyncFnOnce(&Config) -> Result<T>) -> Result<T> {
    let config = Config::read(path, &environment())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(ask(&config))
}

fn serve(path: &std::path::Path) -> Result<()> {
    let environment = environment();
    start_log(&environment)?;
    let config = Config::read(path, &environment)?;
    drop(environment);
    files::raise_limit(config.edges.connections_max);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        let (shutdown, ending) = Shutdown::new();
        let server = Server::start(&config, ending).await?;
        tokio::spawn(async move {
            if let Err(error) = shutdown::signalled().await {
                tracing::error!(error = error.logged(), "signals are not heard");
            }
            tracing::info!("ending");
            shutdown.ask();
        });
        server.run(DRAIN_MAX).await
    })
}

/// Sends events to standard error, as text or as JSON.
fn start_log(environment: &Environment) -> Result<()> {
    let wrong = |key: &str, wanted: &str| Error::ConfigValue {
        key: key.to_owned(),
        found: format!("{:?}", environment.get(key).map_or("", String::as_str)),
        wanted: wanted.to_owned(),
    };
    let filter = environment.get("CLOUDSYNC_LOG").map_or("info", String::as_str);
    let filter = EnvFilter::try_new(filter)
        .map_err(|_| wrong("CLOUDSYNC_LOG", "a level such as info, or hub=debug,warn"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match environment.get("CLOUDSYNC_LOG_FORMAT").map(String::as_str) {
        None | Some("text") => log.init(),
        Some("json") => log.json().init(),
        Some(_) => return Err(wrong("CLOUDSYNC_LOG_FORMAT", "text or json")),
    }
    Ok(())
}
