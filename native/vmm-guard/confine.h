/* The last filter of a machine that was forked. */
#ifndef VMM_CONFINE_H
#define VMM_CONFINE_H

#include <stdint.h>

/* From now on the process can start no other, become nobody else and reach no process but itself. 0, or the negated
 * error number. */
long confine(uint32_t process);

#endif
