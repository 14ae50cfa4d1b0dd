"""The way in: one folder per protocol, each a sans-IO core and a thin asyncio shell, and the timeline behind them."""
