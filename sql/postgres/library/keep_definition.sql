-- Keeps a definition as it was announced: messages may be read long after the next one.
insert into cloudsync.announced_definitions (table_id, incarnation, version, definition)
values ($1, $2, $3, $4)
on conflict (table_id, incarnation, version) do update set definition = excluded.definition
