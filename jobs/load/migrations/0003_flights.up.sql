-- The flights pipeline's published tables. run_id and release say which run a row comes from.

create table dwh.dim_airline (
    carrier text primary key,
    name text not null,
    run_id text not null,
    release text not null
);
comment on table dwh.dim_airline is 'Airlines by IATA code';

create table dwh.dim_airport (
    faa text primary key,
    name text,
    lat double precision,
    lon double precision,
    alt_ft integer,
    tz_offset_hours double precision,
    dst text,
    tzone text,
    known boolean not null,
    run_id text not null,
    release text not null
);
comment on table dwh.dim_airport is 'Airports by FAA code, including those that flights name and the source does not describe';
comment on column dwh.dim_airport.known is 'False: named by flights only';
comment on column dwh.dim_airport.tz_offset_hours is 'Standard time, hours from UTC';
comment on column dwh.dim_airport.dst is 'Daylight saving rule: A as in the USA, U unknown, N none';

create table dwh.dim_plane (
    tailnum text primary key,
    year integer,
    type text,
    manufacturer text,
    model text,
    engines integer,
    seats integer,
    speed integer,
    engine text,
    known boolean not null,
    run_id text not null,
    release text not null
);
comment on table dwh.dim_plane is 'Aircraft by tail number, including those that flights name and the source does not describe';
comment on column dwh.dim_plane.known is 'False: named by flights only';
comment on column dwh.dim_plane.speed is 'Average cruising speed in miles per hour';

create table dwh.fact_flight (
    flight_id bigint not null,
    flight_date date not null,
    scheduled_departure timestamptz not null,
    carrier text not null,
    flight_number integer not null,
    tailnum text,
    origin text not null,
    dest text not null,
    dep_delay_minutes integer,
    arr_delay_minutes integer,
    air_time_minutes integer,
    distance_miles integer not null,
    cancelled boolean not null,
    diverted boolean not null,
    plane_known boolean not null,
    dest_known boolean not null,
    run_id text not null,
    release text not null,
    primary key (flight_id, flight_date)
) partition by range (flight_date);
comment on table dwh.fact_flight is 'Flights from New York; one partition a month, each replaced as a whole by the run that publishes it';
comment on column dwh.fact_flight.flight_date is 'Scheduled local day of departure';
comment on column dwh.fact_flight.scheduled_departure is 'Scheduled departure as a moment (from New York wall clock)';
comment on column dwh.fact_flight.dep_delay_minutes is 'Negative: early. Null: cancelled';
comment on column dwh.fact_flight.arr_delay_minutes is 'Negative: early. Null: cancelled or diverted';
comment on column dwh.fact_flight.cancelled is 'Never departed';
comment on column dwh.fact_flight.diverted is 'Departed without arriving at its destination';
create index on dwh.fact_flight (carrier, flight_date);
create index on dwh.fact_flight (origin, dest);
create index on dwh.fact_flight (tailnum);

create table dwh.agg_delay_day (
    flight_date date not null,
    carrier text not null,
    origin text not null,
    dest text not null,
    flights integer not null check (flights > 0),
    departed integer not null,
    cancelled integer not null,
    diverted integer not null,
    mean_dep_delay_minutes double precision,
    mean_arr_delay_minutes double precision,
    run_id text not null,
    release text not null,
    primary key (flight_date, carrier, origin, dest),
    check (departed + cancelled = flights)
);
comment on table dwh.agg_delay_day is 'Flights and mean delays by day, carrier and route';
comment on column dwh.agg_delay_day.mean_dep_delay_minutes is 'Over departed flights';
comment on column dwh.agg_delay_day.mean_arr_delay_minutes is 'Over flights that arrived at their destination';
create index on dwh.agg_delay_day (carrier, flight_date);

grant insert, update, delete on dwh.dim_airline, dwh.dim_airport, dwh.dim_plane, dwh.agg_delay_day to etl_load;
