/* A program with its own SQLite: loads the library, or has it linked in (STATIC), and plays the scenario of
   tests/tests/hosts.rs: EXTENSION A.DB B.DB URL. Every close has to succeed at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite3.h"

#ifdef STATIC
int sqlite3_cloudsync_init(sqlite3 *db, char **error, const void *api);
#endif

static void fail(sqlite3 *db, const char *what) {
    fprintf(stderr, "%s: %s\n", what, db ? sqlite3_errmsg(db) : "");
    exit(1);
}

static sqlite3 *open_file(const char *path, const char *extension) {
    sqlite3 *db = NULL;
    char *error = NULL;
    if (sqlite3_open(path, &db) != SQLITE_OK) fail(db, "open");
#ifdef STATIC
    (void)extension;
    if (sqlite3_cloudsync_init(db, &error, NULL) != SQLITE_OK) fail(db, "init");
#else
    sqlite3_enable_load_extension(db, 1);
    if (sqlite3_load_extension(db, extension, NULL, &error) != SQLITE_OK) {
        fprintf(stderr, "load: %s\n", error ? error : "no message");
        sqlite3_free(error);
        if (sqlite3_close(db) != SQLITE_OK) fprintf(stderr, "close: busy\n");
        exit(2);
    }
#endif
    return db;
}

static void run(sqlite3 *db, const char *sql) {
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) fail(db, sql);
}

/* Runs a query of one value, with one parameter or none; the statement is left for the caller to finish. */
static sqlite3_stmt *query(sqlite3 *db, const char *sql, const void *blob, int size, const char *text) {
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) fail(db, sql);
    if (blob) sqlite3_bind_blob(statement, 1, blob, size, SQLITE_STATIC);
    if (text) sqlite3_bind_text(statement, 1, text, -1, SQLITE_STATIC);
    if (sqlite3_step(statement) != SQLITE_ROW) fail(db, sql);
    return statement;
}

static void set_up(sqlite3 *db, const char *url) {
    run(db, "create table notes (id text primary key not null, text text)");
    run(db, "select cloudsync_init('notes')");
    sqlite3_finalize(query(db, "select cloudsync_network_init(?1)", NULL, 0, url));
}

static void close_file(sqlite3 *db) {
    int code = sqlite3_close(db);
    if (code != SQLITE_OK) fail(db, "close");
}

int main(int count, char **words) {
    if (count != 5) return 64;
    printf("%s\n", sqlite3_libversion());
    fflush(stdout);
    sqlite3 *a = open_file(words[2], words[1]);
    sqlite3 *b = open_file(words[3], words[1]);
    set_up(a, words[4]);
    set_up(b, words[4]);
    run(a, "insert into notes values ('1', 'one'), ('2', 'two')");
    sqlite3_stmt *payload = query(a, "select cloudsync_payload_encode()", NULL, 0, NULL);
    sqlite3_stmt *applied = query(b, "select cloudsync_payload_apply(?1)", sqlite3_column_blob(payload, 0),
                                  sqlite3_column_bytes(payload, 0), NULL);
    printf("%d\n", sqlite3_column_int(applied, 0));
    sqlite3_finalize(payload);
    sqlite3_finalize(applied);
    run(a, "select cloudsync_network_sync()");
    run(b, "update notes set text = 'changed' where id = '1'");
    run(b, "select cloudsync_network_sync()");
    run(a, "select cloudsync_network_sync()");
    const char *all = "select group_concat(id || ':' || text) from (select * from notes order by id)";
    sqlite3_stmt *rows = query(a, all, NULL, 0, NULL);
    printf("%s\n", sqlite3_column_text(rows, 0));
    sqlite3_finalize(rows);
    close_file(a);
    close_file(b);
    printf("closed\n");
    return 0;
}
