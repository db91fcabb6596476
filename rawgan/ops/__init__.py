"""Pure functions of arrays, for NumPy and CuPy: the mathematics of every layer.

One file per operation. Sizes are capitals, arrays are lower case, `dv` is the cotangent (gradient)
of v and `ddv` the cotangent of dv.

    rawgan                       PyTorch
    N, H, W, C                   batch, height, width, in_channels
    K, R, S                      out_channels, kernel_size[0], kernel_size[1]
    P, Q                         output height, output width
    x, y, w, b                   input, output, weight, bias
    dy, dx, dw                   grad_output, grad_input, grad_weight
    ddx, ddy                     grad_grad_input, grad_grad_output
    rstd = 1 / sqrt(var + eps)   invstd, rstd
    conv2d_dx                    conv_transpose2d, grad.conv2d_input
    conv2d_dw                    grad.conv2d_weight

A linear layer and a convolution are each one form T(x, w, y), linear in each of its arguments:

    conv2d:  T(x, w, y) = sum over n,p,q,k,r,s,c of
                          x[n, p*stride + r - pad, q*stride + s - pad, c] w[k,r,s,c] y[n,p,q,k]
    linear:  T(x, w, y) = sum over n,k,c of
                          x[n, c] w[k, c] y[n, k]

Forward, input gradient and weight gradient are dT/dy, dT/dx and dT/dw; every second derivative is
again one of the three.
"""
