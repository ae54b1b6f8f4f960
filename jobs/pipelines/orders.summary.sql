-- Published revenue by market segment
select
    market_segment as segment,
    sum(orders) as orders,
    sum(lines) as lines,
    round(sum(revenue), 2) as revenue
from dwh.agg_revenue_day
group by market_segment
order by revenue desc
