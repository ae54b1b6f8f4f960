-- loses: dwh.fact_order, dwh.fact_line_item, dwh.agg_revenue_day, dwh.dim_customer
drop table dwh.agg_revenue_day, dwh.fact_line_item, dwh.fact_order, dwh.dim_customer;
