drop function etl.retire_pipeline(text, text[]);
