-- The orders pipeline's published tables.

create table dwh.dim_customer (
    customer_key bigint primary key,
    name text,
    nation text,
    market_segment text,
    balance numeric(15, 2),
    known boolean not null,
    run_id text not null,
    release text not null
);
comment on table dwh.dim_customer is 'Customers, including those that orders name and the source does not describe';
comment on column dwh.dim_customer.known is 'False: named by orders only';
comment on column dwh.dim_customer.balance is 'Account balance; negative: the customer owes';

create table dwh.fact_order (
    order_key bigint not null,
    order_date date not null,
    customer_key bigint not null,
    status text not null check (status in ('O', 'F', 'P')),
    total_price numeric(15, 2) not null,
    priority text,
    clerk text,
    updated_at timestamptz not null,
    customer_known boolean not null,
    run_id text not null,
    release text not null,
    primary key (order_key, order_date)
) partition by range (order_date);
comment on table dwh.fact_order is 'Orders; one partition a month of their dates, replaced as a whole when one of its orders is new or changed';
comment on column dwh.fact_order.status is 'O open, F finished, P partly';
comment on column dwh.fact_order.total_price is 'With discounts and taxes of all lines';
comment on column dwh.fact_order.updated_at is 'Last change at the source';
create index on dwh.fact_order (customer_key, order_date);

create table dwh.fact_line_item (
    order_key bigint not null,
    line_number integer not null,
    order_date date not null,
    customer_key bigint not null,
    market_segment text not null,
    part_key bigint,
    supplier_key bigint,
    quantity numeric(15, 2) not null,
    extended_price numeric(15, 2) not null,
    discount numeric(15, 2) not null,
    tax numeric(15, 2),
    net_price numeric(18, 4) not null,
    return_flag text,
    ship_date date,
    ship_mode text,
    order_known boolean not null,
    run_id text not null,
    release text not null,
    primary key (order_key, line_number, order_date)
) partition by range (order_date);
comment on table dwh.fact_line_item is 'Lines of orders; partitions as those of fact_order';
comment on column dwh.fact_line_item.discount is 'Fraction from 0 to 1';
comment on column dwh.fact_line_item.net_price is 'Extended price less discount, before tax';
comment on column dwh.fact_line_item.order_known is 'False: the order itself is in quarantine';
create index on dwh.fact_line_item (customer_key, order_date);
create index on dwh.fact_line_item (part_key);

create table dwh.agg_revenue_day (
    order_date date not null,
    market_segment text not null,
    orders integer not null check (orders > 0),
    lines integer not null check (lines >= orders),
    quantity numeric(18, 2) not null,
    revenue numeric(20, 4) not null,
    run_id text not null,
    release text not null,
    primary key (order_date, market_segment)
);
comment on table dwh.agg_revenue_day is 'Revenue by day of order and market segment of the customer';
comment on column dwh.agg_revenue_day.revenue is 'Sum of net prices';

grant insert, update, delete on dwh.dim_customer, dwh.agg_revenue_day to etl_load;
