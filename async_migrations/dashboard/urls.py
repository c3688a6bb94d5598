"""The addresses of the operators' page, below whatever prefix the project includes them. No trailing slashes."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path, reverse_lazy

from . import asks, gates, history, holds, janitor, later, pages, tuning
from .chart import chart
from .door import only

app_name = "dashboard"

_OVERVIEW = reverse_lazy("dashboard:overview")
_LOGIN_PAGE = reverse_lazy("dashboard:login")
_LOGIN = LoginView.as_view(
    template_name="async_migrations/dashboard/login.html", next_page=_OVERVIEW, redirect_authenticated_user=True
)

urlpatterns = [
    path("", pages.overview, name="overview"),
    path("login", _LOGIN, name="login"),
    path("logout", only("POST")(LogoutView.as_view(next_page=_LOGIN_PAGE)), name="logout"),
    path("migrations", pages.listing, name="list"),
    path("migrations/many", asks.many, name="many"),
    path("migrations/<int:pk>", pages.detail, name="detail"),
    path("migrations/<int:pk>/chart", chart, name="chart"),
    path("migrations/<int:pk>/preflight", pages.findings, name="preflight"),
    path("migrations/<int:pk>/events", history.events, name="events"),
    path("migrations/<int:pk>/set-aside", pages.set_aside, name="set_aside"),
    path("migrations/<int:pk>/tune", tuning.tune, name="tune"),
    path("migrations/<int:pk>/later", later.later, name="later"),
    path("migrations/<int:pk>/<str:verb>", asks.one, name="ask"),
    path("gates", gates.gates, name="gates"),
    path("janitor", janitor.leftovers, name="janitor"),
    path("janitor/drop", janitor.drop, name="drop"),
    path("hold", holds.hold, name="hold"),
    path("lift", asks.lift, name="lift"),
]
