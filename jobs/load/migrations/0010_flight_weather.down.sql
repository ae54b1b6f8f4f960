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
            'alter table %s drop column temperature_f, drop column wind_mph, drop column precipitation_in, drop column visibility_miles',
            relation
        );
    end loop;
end
$$;
alter table dwh.agg_delay_day
drop column mean_temperature_f,
drop column mean_wind_mph,
drop column mean_precipitation_in,
drop column mean_visibility_miles;
