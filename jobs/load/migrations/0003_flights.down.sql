-- loses: dwh.fact_flight, dwh.agg_delay_day, dwh.dim_plane, dwh.dim_airport, dwh.dim_airline
drop table dwh.agg_delay_day, dwh.fact_flight, dwh.dim_plane, dwh.dim_airport, dwh.dim_airline;
