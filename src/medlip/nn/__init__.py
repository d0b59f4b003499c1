"""Building blocks of the methods, one a file: image and text encoders, the disentangler, the query decoder, transport."""
