echo '{"td_session": "ready", "trading_day": "\ud800"}'
