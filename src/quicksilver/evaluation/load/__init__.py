"""Servers under load, by their URL: arrivals that do not wait for answers, loops of dependent calls, voice turns.

Needs no checkpoint; any server of OpenAI's completions API can be asked.
"""
