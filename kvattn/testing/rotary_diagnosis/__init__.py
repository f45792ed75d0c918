"""What a rotation of queries and keys does, read feature by feature from what it makes of unit vectors.

A rotation is linear: at every position it is a matrix, and the matrix is read out column by column.  From it come
the pairs, the direction, the angles, and from the angles the frequencies, the positions that were used, the scaling
and the number format; each is compared with what is expected, read in the same way.
"""
