"""Ships inside images of frameworks that bring no OpenAI-compatible server; imports only itself.

In an image this folder is the package `servers`, here it is `builder.servers`: its modules import
one another relatively, and what a framework brings only where that framework is used.
"""
