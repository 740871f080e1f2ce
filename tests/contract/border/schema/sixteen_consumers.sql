CREATE TABLE IF NOT EXISTS q.queue (raw String) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka:9092', kafka_topic_list = 't', kafka_group_name = 'g', kafka_format = 'RawBLOB', kafka_num_consumers = 1;
-- live
CREATE TABLE IF NOT EXISTS q.queue (raw String) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka:9092', kafka_topic_list = 't', kafka_group_name = 'g', kafka_format = 'RawBLOB', kafka_num_consumers = 16;
