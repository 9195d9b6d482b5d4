# Rank of every site, block by site, beside the uniform plan of the same cost. Reads ranks.tsv.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."ranks.tsv"

rows = 0; plans = 0; blocks = 0; sites = 0; high = 0.0
stats file using (rows = rows + 1, plans = max2(plans, column("plan") + 1), blocks = max2(blocks, column("block") + 1), \
                  sites = max2(sites, column("column") + 1), high = max2(high, column("rank"))) nooutput
numbered = blocks <= 40
height = rows > 0 ? 150.0 + max2(180, min2(1100, (numbered ? 22 : 12) * blocks)) : 300.0
eval start(860, height, rows > 0 ? min2(blocks, 200) + 9 : 20)
if (rows == 0) {
    set xlabel "site (linear layer)"; set ylabel "block (index)"
    eval say_nothing
} else {
    set cbrange [0:high > 0 ? high : 1]
    set cblabel "rank (directions)"
    set cbtics tic_step(high, 6)
    set xrange [-0.5:sites - 0.5]
    set yrange [blocks - 0.5:-0.5]
    set ytics 0, tic_step(blocks, 28)
    set xlabel "site (linear layer)"; set ylabel "block (index)"
    unset grid; unset key
    command = "set xtics ("
    do for [c = 0:sites - 1] {
        kind = ""
        stats file using (column("column") == c ? (kind = strcol("kind"), 0) : 0) nooutput
        command = command.sprintf("%s'%s' %d", c > 0 ? ", " : "", kind, c)
    }
    eval command.")".(text ? "" : " rotate by -35")
    bright(v) = high > 0 && v > 0.6 * high
    set multiplot layout 1, plans margins screen 0.09, (text ? 0.97 : 0.89), (text ? 0.2 : 105 / height), \
        (text ? 0.9 : 1 - 40 / height) spacing screen 0.1, 0
    do for [p = 0:plans - 1] {
        label = ""
        stats file using (column("plan") == p ? (label = strcol("label"), 0) : 0) nooutput
        set title label offset 0, -0.5
        mine(v) = column("plan") == p ? v : NaN
        if (p < plans - 1) { unset colorbox } else { set colorbox }
        if (text) {
            plot file using "column":(mine(column("block"))):(sprintf("%d", column("rank"))) with labels notitle
        } else {
            if (numbered) {
                light = 0; dark = 0
                stats file using (column("plan") == p ? (bright(column("rank")) ? (light = light + 1) : (dark = dark + 1)) : 0) nooutput
                command = "plot file using 'column':(mine(column('block'))):(0.48):(0.46):'rank' with boxxyerror lc palette notitle"
                if (dark > 0) { command = command.", file using 'column':(bright(column('rank')) ? NaN : mine(column('block'))):".\
                    "(sprintf('%d', column('rank'))) with labels tc rgb 0xffffff font ',11' notitle" }
                if (light > 0) { command = command.", file using 'column':(bright(column('rank')) ? mine(column('block')) : NaN):".\
                    "(sprintf('%d', column('rank'))) with labels tc rgb 0x010101 font ',11' notitle" }
                eval command
            } else {
                plot file using "column":(mine(column("block"))):(0.48):(0.5):"rank" with boxxyerror lc palette notitle
            }
        }
    }
    unset multiplot
}
