"""CPU kernels that are faster than Paddle's: the same mathematics, in blocks of rows on all threads.
Use the layers with `backward()`: for a custom `PyLayer`, Paddle does not support `paddle.grad` with respect
to only some of the inputs. `ernie_m.model.kernel_selection` decides when they are used.
"""
