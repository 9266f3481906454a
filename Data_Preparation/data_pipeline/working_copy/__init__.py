"""Working copies of data folders at URLs: what is missing here is fetched, what is made here is published."""
