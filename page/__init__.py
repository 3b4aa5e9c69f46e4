"""The page in the browser: answers, visitors, turns, handlers, layout, guard."""
