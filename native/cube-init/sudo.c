#include "sudo.h"

#include <stdio.h>

int sudo_listen(const struct serve_config *config)
{
    (void)config;
    return -1;
}

void sudo_accept(void)
{
}

int sudo_main(int argc, char **argv)
{
    (void)argc, (void)argv;
    fputs("sudo is not available yet\n", stderr);
    return 1;
}
