-- Mean delay in minutes by carrier
select
    a.name as carrier,
    count(*) as flights,
    count(*) filter (where f.cancelled) as cancelled,
    round(avg(f.dep_delay_minutes), 1) as departure,
    round(avg(f.arr_delay_minutes), 1) as arrival
from dwh.fact_flight as f
inner join dwh.dim_airline as a on f.carrier = a.carrier
where f.flight_date >= %(start)s and f.flight_date < %(end)s
group by a.name
order by arrival desc nulls last
