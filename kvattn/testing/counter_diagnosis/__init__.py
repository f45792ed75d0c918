"""What a counter of FLOPs or bytes counts, read from the numbers that it returns for chosen sizes.

In batch, heads, layers and widths a count is a polynomial: it is interpolated exactly, and its terms say which size
stands in whose place.  How many pairs, or rows, it takes at each length is what is left, and a table of that is
compared with the rules that people use.  Everything is exact: integers and fractions, no tolerance.
"""
