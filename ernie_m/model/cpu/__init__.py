"""What a CPU can do better than Paddle's own kernels: the same mathematics, in blocks of rows on all threads.

Use the layers with `backward()`: for a custom `PyLayer`, Paddle refuses `paddle.grad` with respect to only
some of the inputs. `ernie_m.model.kernel_selection` says when they compute.
"""
