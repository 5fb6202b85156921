"""Text and JSON renderings of plans. They read plans and decide nothing."""
