-- The columns of a table that its unique indexes read, other than the primary key and those that check at the end of
-- the transaction. Per index and column: index, whether values that differ in bytes may be equal to it, column, type, which
-- values are free in it, if we know any (null, text, uuid, number, time), and where they end: the most characters of a
-- text, the number that is too large. Foreign keys follow the values of what they refer to, so what they refer to has no
-- free values; nor has a column that is computed. $1: the table.
select
  i.indexrelid::pg_catalog.int8,
  i.indexprs is not null or i.indpred is not null
    or b.oid::pg_catalog.int8 operator(pg_catalog.>=) 16384
    or b.oid operator(pg_catalog.=) any (
      '{pg_catalog.numeric,pg_catalog.bpchar,pg_catalog.float4,pg_catalog.float8}'::pg_catalog.regtype[])
    or exists (
      select from pg_catalog.pg_collation as n
      where n.oid operator(pg_catalog.=) a.attcollation and not n.collisdeterministic
    ),
  a.attnum,
  pg_catalog.format_type(a.atttypid, -1),
  case
    when a.attgenerated operator(pg_catalog.<>) '' or f.is_wanted then null
    -- Before 15 there is no such column.
    when not (a.attnotnull or t.typnotnull)
      and (pg_catalog.to_jsonb(i) operator(pg_catalog.->>) 'indnullsnotdistinct') is distinct from 'true' then 'null'
    when b.typcategory operator(pg_catalog.=) 'S' then 'text'
    when b.oid operator(pg_catalog.=) 'pg_catalog.uuid'::pg_catalog.regtype then 'uuid'
    when b.oid operator(pg_catalog.=) any (
      '{pg_catalog.int2,pg_catalog.int4,pg_catalog.int8,pg_catalog.numeric,pg_catalog.float4,pg_catalog.float8}'::pg_catalog.regtype[]) then 'number'
    when b.oid operator(pg_catalog.=) any (
      '{pg_catalog.date,pg_catalog.timestamp,pg_catalog.timestamptz}'::pg_catalog.regtype[]) then 'time'
  end,
  case b.oid
    when 'pg_catalog.int2'::pg_catalog.regtype then '32768'
    when 'pg_catalog.int4'::pg_catalog.regtype then '2147483648'
    when 'pg_catalog.int8'::pg_catalog.regtype then '9223372036854775808'
    -- Above that one more is the same number.
    when 'pg_catalog.float4'::pg_catalog.regtype then '16777216'
    when 'pg_catalog.float8'::pg_catalog.regtype then '9007199254740992'
    -- Digits before the point: the modifier holds all of them and those behind it.
    when 'pg_catalog.numeric'::pg_catalog.regtype then case when m.modifier operator(pg_catalog.>) 4 then '1' operator(pg_catalog.||)
      pg_catalog.repeat('0', ((m.modifier operator(pg_catalog.-) 4) operator(pg_catalog.>>) 16)
        operator(pg_catalog.-) ((m.modifier operator(pg_catalog.-) 4) operator(pg_catalog.&) 2047)) end
    else case when b.typcategory operator(pg_catalog.=) 'S' and m.modifier operator(pg_catalog.>) 4
      then (m.modifier operator(pg_catalog.-) 4)::pg_catalog.text end
  end
from pg_catalog.pg_index as i
join pg_catalog.pg_attribute as a on a.attrelid operator(pg_catalog.=) i.indrelid and a.attnum operator(pg_catalog.>) 0
join pg_catalog.pg_type as t on t.oid operator(pg_catalog.=) a.atttypid
join pg_catalog.pg_type as b on b.oid operator(pg_catalog.=)
  case when t.typtype operator(pg_catalog.=) 'd' then t.typbasetype else t.oid end
cross join lateral (
  select case when t.typtype operator(pg_catalog.=) 'd' then t.typtypmod else a.atttypmod end
) as m (modifier)
cross join lateral (
  select exists (
    select from pg_catalog.pg_constraint as c
    where c.contype operator(pg_catalog.=) 'f' and c.conindid operator(pg_catalog.=) i.indexrelid
  )
) as f (is_wanted)
where i.indrelid operator(pg_catalog.=) $1 and i.indisunique and not i.indisprimary and i.indimmediate
  and (
    a.attnum operator(pg_catalog.=) any (i.indkey::pg_catalog.int2[])
    or exists (
      select from pg_catalog.pg_depend as d
      where d.classid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        and d.objid operator(pg_catalog.=) i.indexrelid
        and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        and d.refobjid operator(pg_catalog.=) i.indrelid
        and d.refobjsubid operator(pg_catalog.=) a.attnum
    )
  )
order by i.indexrelid, not (a.attnum operator(pg_catalog.=) any (i.indkey::pg_catalog.int2[])), a.attnum
