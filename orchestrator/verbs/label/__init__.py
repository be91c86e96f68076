"""`orchestrate label`: people compare answers, or rate them, on a page.

command.py    the arguments, and what is printed
store.py      items, labellers and judgements in a database
service.py    the addresses behind the page, for one labeller each
page/         the page itself
agreement.py  how far the labellers agree, with each other and with what is known
"""
