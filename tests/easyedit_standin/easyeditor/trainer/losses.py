def kl_loc_loss(pre, post, mask=None):
    return (pre.softmax(-1) * (pre.log_softmax(-1) - post.log_softmax(-1))).sum(-1).mean()
