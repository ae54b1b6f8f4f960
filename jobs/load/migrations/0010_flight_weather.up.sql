-- The weather at the airport in the hour of the scheduled departure. Former partitions get the columns too: they may be published again.

do $$
declare
    relation text;
begin
    for relation in
        select 'dwh.fact_flight'
        union all
        select v.relation from etl.partition_version as v
        where v.table_name = 'fact_flight' and v.relation <> 'dwh.' || v.partition_name and to_regclass(v.relation) is not null
    loop
        execute format(
            'alter table %s
             add column temperature_f double precision,
             add column wind_mph double precision,
             add column precipitation_in double precision,
             add column visibility_miles double precision',
            relation
        );
    end loop;
end
$$;
comment on column dwh.fact_flight.temperature_f is 'Weather at the origin in the hour of the scheduled departure; null: not observed';
comment on column dwh.fact_flight.precipitation_in is 'Inches in that hour';

alter table dwh.agg_delay_day
add column mean_temperature_f double precision,
add column mean_wind_mph double precision,
add column mean_precipitation_in double precision,
add column mean_visibility_miles double precision;
comment on column dwh.agg_delay_day.mean_temperature_f is 'Weather: means over flights whose hour was observed';
