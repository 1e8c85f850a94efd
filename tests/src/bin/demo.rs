//! The main job, end to end, in plain words: two devices edit offline, somebody edits in Postgres, all of them
//! end with the same rows.
//!
//! Everything is real and private: a Postgres of its own, the hub, two SQLite files, in temporary directories
//! on free ports. Ends with an error when the sides differ. With `KEEP=1` it leaves everything running.

use std::io::{self, Write};
use std::process::ExitCode;
use std::{env, fs};

use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::object_store::StoreKind;
use tests::places;
use tests::postgres::{Cluster, Database, Durability, SUPERUSER};

const POSTGRES_DDL: &str = "create table todo (
    id text primary key, title text not null, assignee text, done boolean not null default false)";
const SQLITE_DDL: &str = "create table todo (
    id text primary key not null, title text not null, assignee text, done integer not null default 0)";

/// Shows the rows alike on both engines: Postgres says true and false where SQLite says 1 and 0.
const SHOW: &str =
    "select id, title, assignee, case when done then 'done' else 'open' end from todo order by id";
const SHOW_SQLITE: &str =
    "select id, title, assignee, case when done <> 0 then 'done' else 'open' end from todo order by id";

/// What every side must hold at the end of the story.
const END: [&str; 2] = ["milk|buy oat milk|Grace|done", "rent|pay the rent|Linus|open"];

/// The servers and the two devices.
struct Demo {
    hub: Hub,
    phone: Client,
    laptop: Client,
    database: Database,
    cluster: Cluster,
    files: tempfile::TempDir,
}

fn main() -> io::Result<ExitCode> {
    say("Starting a private Postgres (wal_level = logical) with the extension pg_sync, and the hub ...")?;
    let demo = Demo::start();
    demo.tell()?;
    let well = demo.is_equal() && demo.phone.rows(SHOW_SQLITE) == END;
    if well {
        say("\nAll three sides hold the same rows, and every edit.")?;
    } else {
        say("\nThe sides differ, or an edit is missing. That must not be.")?;
    }
    if env::var("KEEP").is_ok_and(|keep| keep == "1") {
        demo.keep()?;
    } else {
        drop(demo);
        say("Stopped everything.")?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(words: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{words}")
}

impl Demo {
    fn start() -> Self {
        let cluster = Cluster::start(Durability::Real);
        let database = cluster.database("demo");
        database.session().run(&format!("{POSTGRES_DDL}; select cloudsync_init('public.todo')"));
        let hub = Hub::start(&database, StoreKind::Directory);
        let files = places::scratch("demo");
        let device = |name: &str| {
            let client = Client::open(&files.path().join(format!("{name}.sqlite")));
            client.run(&format!("{SQLITE_DDL}; select cloudsync_init('todo')"));
            client.join(&hub.address(), API_KEY);
            client
        };
        let (phone, laptop) = (device("phone"), device("laptop"));
        Self { hub, phone, laptop, database, cluster, files }
    }

    /// Plays the story, showing all sides after each step.
    fn tell(&self) -> io::Result<()> {
        say("Each of them has a table `todo`; the phone and the laptop are two SQLite files.")?;

        say("\n1. The phone is offline and notes two things.")?;
        self.on(
            &self.phone,
            "insert into todo (id, title) values ('milk', 'buy milk'), ('call', 'call Ada')",
        )?;
        self.show()?;

        say("\n2. The phone syncs: its rows are in Postgres, and the laptop gets them by syncing.")?;
        self.phone.sync();
        self.laptop.sync();
        self.catch_up();
        self.show()?;

        say("\n3. All three edit, nobody having seen the others: different columns of one row ...")?;
        self.on(&self.phone, "update todo set title = 'buy oat milk' where id = 'milk'")?;
        self.on(&self.laptop, "update todo set assignee = 'Grace' where id = 'milk'")?;
        self.in_psql("update todo set done = true where id = 'milk'")?;
        say("   ... and the laptop deletes a row, while somebody adds one in Postgres.")?;
        self.on(&self.laptop, "delete from todo where id = 'call'")?;
        self.in_psql("insert into todo (id, title, assignee) values ('rent', 'pay the rent', 'Linus')")?;
        self.show()?;

        say("\n4. Both devices sync. All three edits of the one row stay, side by side.")?;
        self.phone.sync();
        self.laptop.sync();
        self.catch_up();
        self.show()
    }

    fn on(&self, client: &Client, sql: &str) -> io::Result<()> {
        let name = client.path().file_stem().unwrap_or_default().to_string_lossy();
        say(&format!("   {name:>8}> {sql}"))?;
        client.run(sql);
        Ok(())
    }

    fn in_psql(&self, sql: &str) -> io::Result<()> {
        say(&format!("   postgres> {sql}"))?;
        self.database.psql(sql);
        Ok(())
    }

    /// Syncs until the devices hold what Postgres holds, or gives up, which [`Self::is_equal`] then tells.
    fn catch_up(&self) {
        // The stream from Postgres is some milliseconds behind a commit; a sync in between has nothing yet.
        for _attempt in 0..20 {
            if self.is_equal() {
                return;
            }
            self.phone.sync_waiting(1_000);
            self.laptop.sync_waiting(1_000);
        }
    }

    fn sides(&self) -> [(&'static str, Vec<String>); 3] {
        [
            ("phone", self.phone.rows(SHOW_SQLITE)),
            ("laptop", self.laptop.rows(SHOW_SQLITE)),
            ("postgres", self.database.session().rows(SHOW)),
        ]
    }

    fn is_equal(&self) -> bool {
        let [(_, phone), (_, laptop), (_, postgres)] = self.sides();
        phone == postgres && laptop == postgres
    }

    fn show(&self) -> io::Result<()> {
        for (name, rows) in self.sides() {
            let mut first = name;
            if rows.is_empty() {
                say(&format!("   {first:>8}: (no rows)"))?;
            }
            for row in rows {
                let cells: Vec<String> = row.split('|').map(|cell| format!("{cell:<14}")).collect();
                say(format!("   {first:>8}{} {}", if first.is_empty() { " " } else { ":" }, cells.concat())
                    .trim_end())?;
                first = "";
            }
        }
        Ok(())
    }

    /// Leaves the servers and the files, says how to connect and how to stop.
    fn keep(self) -> io::Result<()> {
        let files = self.files.keep();
        let url = self.database.url(SUPERUSER);
        let (address, base) = (self.hub.address(), self.hub.base());
        let (hub_pid, mut directories) = self.hub.leave_running();
        let (postgres_pid, postgres_dir) = self.cluster.leave_running();
        let stop = files.join("stop.sh");
        directories.extend([postgres_dir, files.clone()]);
        let directories: Vec<String> = directories.iter().map(|dir| format!("'{}'", dir.display())).collect();
        fs::write(
            &stop,
            format!(
                "kill -TERM {hub_pid}\nkill -INT {postgres_pid}\n\
                 while kill -0 {postgres_pid} 2>/dev/null; do sleep 0.1; done\n\
                 rm -rf {}\n",
                directories.join(" ")
            ),
        )?;
        say("\nEverything is still running.")?;
        say(&format!("  Postgres   psql {url}"))?;
        let library = places::artefact("sqlite/cloudsync.so").with_extension("");
        let init = format!("select cloudsync_network_init('{address}');");
        let key = format!("select cloudsync_network_set_apikey('{API_KEY}');");
        for device in ["phone", "laptop"] {
            let file = files.join(format!("{device}.sqlite"));
            say(&format!("  {device:<9}  sqlite3 {} -cmd '.load {}' \\", file.display(), library.display()))?;
            say(&format!("                 -cmd \"{init}\" -cmd \"{key}\""))?;
        }
        say("             then edit, and: select cloudsync_network_sync();")?;
        say(&format!("  Hub        curl {base}/readyz   (also /healthz and /metrics)"))?;
        say(&format!("  Stop and remove everything:  sh {}", stop.display()))
    }
}
