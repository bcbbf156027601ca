/* Ten functions, one called by the other; which ones is chosen by the bits of a number.
 * Each notes where it returns to: what a walk must find.
 *
 * They are alike to those of tests/fixtures/recorded.c, which allocate at the end. */
#define APART static __attribute__((noinline))
#define PASTE(a, b) a##b
#define NAMED(a, b) PASTE(a, b)
#define RETURNS NAMED(CHAIN, _returns)

/* From the innermost out. */
void *RETURNS[10];

void walk(void);

APART unsigned last(unsigned way)
{
    RETURNS[0] = __builtin_return_address(0);
    walk();
    return way;
}

#define LEVEL(number, name, next_even, next_odd)                                                   \
    APART unsigned name##_even(unsigned way, volatile unsigned *seen)                              \
    {                                                                                              \
        RETURNS[number] = __builtin_return_address(0);                                             \
        unsigned below = way & 1 ? next_odd(way >> 1, seen) : next_even(way >> 1, seen);           \
                                                                                                   \
        *seen = way;                                                                               \
        return below + way;                                                                        \
    }                                                                                              \
    APART unsigned name##_odd(unsigned way, volatile unsigned *seen)                               \
    {                                                                                              \
        RETURNS[number] = __builtin_return_address(0);                                             \
        unsigned below = way & 1 ? next_odd(way >> 1, seen) : next_even(way >> 1, seen);           \
                                                                                                   \
        *seen = below;                                                                             \
        return below - way;                                                                        \
    }

APART unsigned plain(unsigned way, volatile unsigned *seen)
{
    RETURNS[1] = __builtin_return_address(0);
    unsigned below = last(way);

    *seen = way;
    return below;
}

LEVEL(2, sixth, plain, plain)
LEVEL(3, fifth, sixth_even, sixth_odd)
LEVEL(4, fourth, fifth_even, fifth_odd)
LEVEL(5, third, fourth_even, fourth_odd)
LEVEL(6, second, third_even, third_odd)
LEVEL(7, first, second_even, second_odd)

APART unsigned take(unsigned way, volatile unsigned *seen)
{
    RETURNS[8] = __builtin_return_address(0);
    unsigned below = way & 1 ? first_odd(way >> 1, seen) : first_even(way >> 1, seen);

    *seen = way;
    return below;
}

unsigned CHAIN(unsigned way)
{
    volatile unsigned seen = 0;

    RETURNS[9] = __builtin_return_address(0);
    return take(way, &seen) + seen;
}
