"""Invoices and credit notes: numbered without gaps, frozen when issued, proven by `verify`."""
