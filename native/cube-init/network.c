/* The one network interface of the machine. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"

#define INTERFACE "eth0"

static bool used;

static struct ifreq request_for(const char *name)
{
    struct ifreq request = {0};
    strcpy(request.ifr_name, name);
    return request;
}

static void put_address(struct sockaddr *where, uint32_t address)
{
    const struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};
    memcpy(where, &in, sizeof in);
}

static int set_flags(int fd, const char *name, bool up)
{
    struct ifreq request = request_for(name);
    request.ifr_flags = up ? IFF_UP | IFF_RUNNING : 0;
    return ioctl(fd, SIOCSIFFLAGS, &request);
}

static int set_addresses(int fd, const struct guest_address *address)
{
    struct ifreq request = request_for(INTERFACE);
    put_address(&request.ifr_addr, address->address);
    if (ioctl(fd, SIOCSIFADDR, &request))
        return -1;
    put_address(&request.ifr_netmask, htonl(address->prefix ? ~0u << (32 - address->prefix) : 0));
    if (ioctl(fd, SIOCSIFNETMASK, &request))
        return -1;
    request.ifr_mtu = (int)address->mtu;
    return ioctl(fd, SIOCSIFMTU, &request);
}

static int add_route(int fd, uint32_t destination, uint32_t mask, uint32_t gateway)
{
    struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = (char *)INTERFACE};
    put_address(&route.rt_dst, destination);
    put_address(&route.rt_genmask, mask);
    put_address(&route.rt_gateway, gateway);
    if (mask == ~0u)
        route.rt_flags |= RTF_HOST;
    if (gateway)
        route.rt_flags |= RTF_GATEWAY;
    return ioctl(fd, SIOCADDRT, &route) && errno != EEXIST ? -1 : 0;
}

/* Down and up again: routes and neighbours of an earlier life are forgotten. Where there was none, that is spared. */
static int configure(int fd, const struct guest_address *address)
{
    bool renew = used;
    used = true;
    if ((renew && set_flags(fd, INTERFACE, false)) || set_addresses(fd, address) || set_flags(fd, INTERFACE, true))
        return -1;
    if (!address->gateway)
        return 0;
    if (add_route(fd, address->gateway, ~0u, 0))
        return -1;
    return add_route(fd, 0, 0, address->gateway);
}

bool network_used(void)
{
    return used;
}

int network_configure(const struct guest_address *address)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int error = address->prefix > 32 ? EINVAL : fd < 0 || configure(fd, address) ? errno : 0;
    close(fd);
    return error;
}

/* The interface to the outside is up already in every copy of this memory, without an address; there may be none. */
int network_up(void)
{
    guest_write("/proc/sys/net/ipv6/conf/" INTERFACE "/disable_ipv6", "1");
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int error = fd < 0 || set_flags(fd, "lo", true) || (set_flags(fd, INTERFACE, true) && errno != ENODEV) ? errno : 0;
    close(fd);
    return error;
}
