//! Devices whose clock is years off neither win for ever nor lose always nor get stuck.

use std::path::PathBuf;

use tests::client::device_with_clock;
use tests::hub::API_KEY;
use tests::stage::{Setting, Stage, TODO, on_both};

/// A file on a device whose clock is off.
struct Device {
    path: PathBuf,
    offset: &'static str,
    join: String,
}

impl Device {
    fn new(stage: &mut Stage, offset: &'static str) -> Self {
        let path = stage.client("right").path().with_file_name(format!("device{offset}.sqlite"));
        let address = stage.hub.address();
        let join = format!(
            "select cloudsync_network_init('{address}'); select cloudsync_network_set_apikey('{API_KEY}');"
        );
        let device = Self { path, offset, join };
        device.run(&format!("{}; select cloudsync_init('todo', 'cls', 1)", TODO.sqlite));
        device
    }

    fn run(&self, sql: &str) -> String {
        device_with_clock(&self.path, self.offset, sql)
    }

    fn sync(&self) {
        self.run(&format!("{} select cloudsync_network_sync(1000, 1)", self.join));
    }
}

fn check(setting: Setting<'_>, offset: &'static str) {
    let mut stage = Stage::new(setting);
    stage.play(&["pg: insert into todo values ('t', 'first', null, 0)", "right: sync", "all: tick"]);
    let device = Device::new(&mut stage, offset);
    // The first stamps of this file, before it ever heard of a server.
    device.run("insert into todo values ('t', 'by the device', null, 1), ('u', 'by the device', null, 1)");
    device.sync();
    stage.settles_at(&["t|by the device|NULL|1", "u|by the device|NULL|1"]);
    stage.play(&[
        "all: tick",
        "right: update todo set title = 'by the right clock' where id = 't'",
        "right: sync",
    ]);
    stage.play(&["pg: update todo set title = 'by postgres' where id = 'u'"]);
    stage.settles_at(&["t|by the right clock|NULL|1", "u|by postgres|NULL|1"]);
    device.sync();
    let titles = device.run("select title from todo order by id");
    assert_eq!(titles.lines().collect::<Vec<_>>(), ["by the right clock", "by postgres"]);
    stage.play(&["all: tick"]);
    device.run("update todo set title = 'again' where id = 't'; delete from todo where id = 'u'");
    device.sync();
    stage.settles_at(&["t|again|NULL|1"]);
}

#[test]
fn a_device_five_years_ahead() {
    on_both(|setting| check(setting, "+5y"));
}

#[test]
fn a_device_five_years_behind() {
    on_both(|setting| check(setting, "-5y"));
}
